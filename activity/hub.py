"""Fan-out inside one realtime process: one subscription, one decoding per frame, a bounded queue per client.

Nobody is waited for: a client whose queue is full is dropped and re-hydrates over REST. After Valkey was
away every client is told to reconnect, since frames were missed. Source: docs/reference/events.md.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import uuid4

import orjson
import redis.asyncio
import structlog
from django.conf import settings
from django.db import connection

from activity import events
from activity.counters import count
from activity.events import CHANNEL, EventType, Frame

log = structlog.get_logger(__name__)

QUEUE_FRAMES = 256
STREAM_QUEUE_FRAMES = 64
CANVAS_PULSE_S = 10.0  # a canvas needs to know that frames flow, not every agent's heartbeat
RECONNECT_S = (0.2, 0.5, 1, 2, 5)
PRESENCE_S = 10.0
PRESENCE_PAUSE_S = 0.2  # a crowd that comes at once is told of in a few writes
VALKEY_S = 3.0
SOCKETS_KEY = "sockets:"
GOING_AWAY, RESTARTED, TOO_SLOW = 1001, 1012, 1013


@dataclass(frozen=True)
class Delivery:
    """One frame on its way to a client; `text` and `stream` are shared by all of them."""

    event: str
    workspace_id: str
    text: str
    frame: dict[str, Any]

    @cached_property
    def stream(self) -> bytes:
        """The frame as a server-sent event."""
        milliseconds = int(datetime.fromisoformat(self.frame["timestamp"]).timestamp() * 1000)
        event = {"type": self.event, "timestamp": milliseconds, "data": self.frame["payload"]}
        return b"data: " + orjson.dumps(event) + b"\n\n"


class Client:
    """One socket or stream.

    `wants` is asked on the hub's loop and must be quick; a code in `closed_with` ends the client.
    """

    def __init__(
        self, wants: Callable[[Delivery], bool], *, frames: int = QUEUE_FRAMES, is_socket: bool = True
    ) -> None:
        self.wants = wants
        self.queue: asyncio.Queue[Delivery] = asyncio.Queue(frames)
        self.is_socket = is_socket
        self.closed_with: int | None = None
        self.closing = asyncio.Event()

    def close(self, code: int) -> None:
        if self.closed_with is None:
            self.closed_with = code
            self.closing.set()


class Hub:
    """All clients of this process and the tasks that feed them."""

    def __init__(self) -> None:
        self._clients: set[Client] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_pulse = 0.0
        self._changed = asyncio.Event()
        self._is_leaving = False
        self.subscribed = asyncio.Event()
        self._key = f"{SOCKETS_KEY}{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"

    def start(self) -> None:
        """Subscribe, and tell how many sockets there are. Safe to repeat."""
        if not self._tasks or any(task.done() for task in self._tasks):
            for task in self._tasks:
                task.cancel()
            self._tasks = [asyncio.create_task(one) for one in (self._run(), self._tell_presence())]

    async def join(self, client: Client) -> None:
        """Add a client; returns once frames published from now on will reach it."""
        self.start()
        self._clients.add(client)
        self._changed.set()
        if self._is_leaving:
            client.close(GOING_AWAY)
        await self.subscribed.wait()

    def leave(self, client: Client) -> None:
        self._clients.discard(client)
        self._changed.set()

    async def say_goodbye(self, *, within_s: float) -> None:
        """Close every client with 1001, and every later one, and wait until they have gone."""
        self._is_leaving = True
        for client in self._clients:
            client.close(GOING_AWAY)
        deadline = time.monotonic() + within_s
        while self._clients and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def deliver(self, delivery: Delivery) -> None:
        """Hand one frame to every client that wants it; a full queue costs its client the connection."""
        is_pulse = delivery.event == EventType.WORKSPACE_HEARTBEAT
        canvas_pulse = is_pulse and time.monotonic() - self._last_pulse >= CANVAS_PULSE_S
        if canvas_pulse:
            self._last_pulse = time.monotonic()
        for client in list(self._clients):
            if (is_pulse and not canvas_pulse and client.wants is everything) or not client.wants(delivery):
                continue
            try:
                client.queue.put_nowait(delivery)
            except asyncio.QueueFull:
                client.close(TOO_SLOW)
                self.leave(client)
                asyncio.get_running_loop().run_in_executor(None, _count_dropped)

    def _deliver_encoded(self, frames: Sequence[bytes]) -> None:
        for data in frames:
            if delivery := _delivery(data):
                self.deliver(delivery)

    async def _run(self) -> None:
        missed, is_resumed = 0, False
        while True:
            try:
                await self._subscription(is_resumed=is_resumed)
            except (redis.RedisError, OSError) as error:
                log.warning("hub.disconnected", error=str(error))
            except Exception:
                log.exception("hub.failed")  # a defect must cost a reconnect, not the fan-out
            is_resumed = True
            if self.subscribed.is_set():  # it had worked: begin again with short waits
                missed = 0
            self.subscribed.clear()
            await asyncio.sleep(RECONNECT_S[min(missed, len(RECONNECT_S) - 1)])
            missed += 1

    async def _subscription(self, *, is_resumed: bool) -> None:
        valkey = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=3, socket_keepalive=True, health_check_interval=10
        )
        async with valkey, valkey.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(CHANNEL)
            if is_resumed:
                for client in list(self._clients):
                    client.close(RESTARTED)
            self.subscribed.set()
            while True:
                message = await channel.get_message(timeout=5.0)
                if message is not None and (delivery := _delivery(message["data"])):
                    self.deliver(delivery)

    async def _tell_presence(self) -> None:
        """Keeps this process's number of sockets readable for /metrics; it expires with the process."""
        while True:
            try:
                async with redis.asyncio.Redis.from_url(settings.REDIS_URL) as valkey:
                    while True:
                        self._changed.clear()
                        sockets = sum(client.is_socket for client in self._clients)
                        async with asyncio.timeout(VALKEY_S):  # `socket_timeout` would be a `wait_for`
                            await valkey.set(self._key, sockets, ex=int(3 * PRESENCE_S))
                        await asyncio.sleep(PRESENCE_PAUSE_S)
                        await _within(PRESENCE_S, self._changed)
            except (redis.RedisError, OSError):
                await asyncio.sleep(PRESENCE_S)


async def _within(seconds: float, happened: asyncio.Event) -> None:
    """`asyncio.wait_for` of Python 3.11 can swallow a cancellation that comes with the event, and then the
    process does not end.
    """
    try:
        async with asyncio.timeout(seconds):
            await happened.wait()
    except TimeoutError:
        pass


def everything(delivery: Delivery) -> bool:
    """What a canvas wants."""
    return True


def _delivery(data: bytes) -> Delivery | None:
    """None for what is no frame of ours: it must not end the fan-out."""
    try:
        frame = orjson.loads(data)
        return Delivery(frame["event"], frame["workspace_id"], data.decode(), frame)
    except (ValueError, KeyError, TypeError):
        log.warning("hub.foreign_message", bytes=len(data))
        return None


def _count_dropped() -> None:
    try:
        count("molecule_ws_clients_dropped_total")
    finally:
        connection.close()


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def hub() -> Hub:
    """The hub of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs.clear()  # a server has one loop; tests have one after the other
        _hubs[loop] = Hub()
    return _hubs[loop]


def _deliver_here(frames: Sequence[Frame]) -> None:
    """Frames that could not be published, to the clients of this process; called from any thread."""
    encoded = [frame.encoded() for frame in frames]
    for loop, local in list(_hubs.items()):
        if not loop.is_closed():
            loop.call_soon_threadsafe(local._deliver_encoded, encoded)


events.undelivered.append(_deliver_here)
