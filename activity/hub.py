"""Fan-out inside one realtime process: one subscription, one decoding per frame, a bounded queue per client.

Nobody is waited for: a client whose queue is full is dropped and re-hydrates over REST. After Valkey was
away every
client is told to reconnect, since frames were missed. Source: docs/reference/events.md.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

import orjson
import redis.asyncio
import structlog
from django.conf import settings
from django.db import connection

from activity.counters import count
from activity.events import CHANNEL, EventType
from activity.http_metrics import SOCKETS_KEY

log = structlog.get_logger(__name__)

QUEUE_FRAMES = 256
CANVAS_PULSE_S = 10.0  # a canvas needs to know that frames flow, not every agent's heartbeat
RECONNECT_S = (0.2, 0.5, 1, 2, 5)
PRESENCE_S = 10
TOO_SLOW, RESTARTED = 1013, 1012


@dataclass(frozen=True)
class Delivery:
    """One frame on its way to a client; `text` is shared by all of them."""

    event: str
    workspace_id: str
    text: str


@dataclass(eq=False)
class Client:
    """One socket. `wants` is asked on the hub's loop and must be quick; a code in `closed_with` ends the
    client.
    """

    wants: Callable[[Delivery], bool]
    queue: asyncio.Queue[Delivery] = field(default_factory=lambda: asyncio.Queue(QUEUE_FRAMES))
    closed_with: int | None = None
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self, code: int) -> None:
        if self.closed_with is None:
            self.closed_with = code
            self.closing.set()


class Hub:
    """All clients of this process and the task that feeds them."""

    def __init__(self) -> None:
        self._clients: set[Client] = set()
        self._task: asyncio.Task[None] | None = None
        self._presence: asyncio.Task[None] | None = None
        self._last_pulse = 0.0
        self.subscribed = asyncio.Event()
        self._key = f"{SOCKETS_KEY}{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"

    async def join(self, client: Client) -> None:
        """Add a client; returns once frames published from now on will reach it."""
        self._clients.add(client)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
            self._presence = asyncio.create_task(self._tell_presence())
        await self.subscribed.wait()

    def leave(self, client: Client) -> None:
        self._clients.discard(client)

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

    async def _run(self) -> None:
        missed, is_resumed = 0, False
        while True:
            try:
                await self._subscription(is_resumed=is_resumed)
            except (redis.RedisError, OSError) as error:
                log.warning("hub.disconnected", error=str(error))
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
                async with redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=3) as valkey:
                    while True:
                        await valkey.set(self._key, len(self._clients), ex=3 * PRESENCE_S)
                        await asyncio.sleep(PRESENCE_S)
            except (redis.RedisError, OSError):
                await asyncio.sleep(PRESENCE_S)


def everything(delivery: Delivery) -> bool:
    """What a canvas wants."""
    return True


def _delivery(data: bytes) -> Delivery | None:
    """None for what is no frame of ours: it must not end the fan-out."""
    try:
        frame = orjson.loads(data)
        return Delivery(frame["event"], frame["workspace_id"], data.decode())
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
