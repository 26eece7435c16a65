"""The life of a realtime process: it subscribes before the first client comes, says that it lives,
and says goodbye before the server hangs up.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog

from activity.hub import Hub, hub
from activity.supervision import tick
from config.jobs import LOOP_TICK_S, Loop
from config.threads import in_thread

log = structlog.get_logger(__name__)

GOODBYE_S = 1.0

# Filled by other rooms in ready(): what is looked at once when the server starts, beside its first requests.
at_start: list[Callable[[], None]] = []


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI `lifespan` protocol."""
    tasks: list[asyncio.Task[None]] = []
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            local = hub()
            local.start()
            tasks.append(asyncio.create_task(_keep_ticking(local)))
            say_goodbye_before_exit(local)
            tasks.append(asyncio.create_task(_look_around()))
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            for task in tasks:
                task.cancel()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _look_around() -> None:
    for look in at_start:
        await in_thread(look)()


async def _keep_ticking(local: Hub) -> None:
    """On record as alive while the subscription stands: a process that hears nothing is not."""
    while True:
        if local.subscribed.is_set():
            try:
                await in_thread(tick)(Loop.BROADCASTER)
            except Exception as error:  # the database is away: readiness says so, and the fan-out goes on
                log.warning("broadcaster.not_ticked", error=str(error))
        await asyncio.sleep(LOOP_TICK_S if local.subscribed.is_set() else 0.2)


def say_goodbye_before_exit(local: Hub) -> None:
    """Close the clients with 1001 when the process is told to end, then let the server end it.

    The server's own handler would close them with 1012 and wait for the streams until it is killed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    is_leaving = threading.Event()
    goodbyes: list[asyncio.Task[None]] = []

    def chain(number: signal.Signals) -> None:
        before = signal.getsignal(number)
        if not callable(before):
            return

        async def leave() -> None:
            await local.say_goodbye(within_s=GOODBYE_S)
            before(number, None)

        def told(given: int, frame: FrameType | None) -> None:
            if is_leaving.is_set():  # told again: at once
                before(given, frame)
                return
            is_leaving.set()
            loop.call_soon_threadsafe(lambda: goodbyes.append(loop.create_task(leave())))

        signal.signal(number, told)

    for number in (signal.SIGTERM, signal.SIGINT):
        chain(number)
