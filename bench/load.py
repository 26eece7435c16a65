"""The two kinds of load, each made by a process of its own so that this one does not slow it down.

`hammer` is a closed loop: every connection asks again as soon as it was answered; it finds the highest rate.
`pace` is an open loop: every request has its moment, and its latency counts from that moment, so that a
server that stalls cannot hide the requests which would have come meanwhile (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import orjson
import uvloop

from bench.sockets import Socket
from bench.statistics import Load, Samples
from bench.wire import Answer, Connection

P = TypeVar("P")
R = TypeVar("R")

MAX_REQUESTS = 500_000  # of one load
MAX_FRAMES = 2_000_000
WARM_UP_S = 1.0
FRAMES_WITHIN_S = 2.0  # after the last request
ANSWER_WITHIN_S = 30.0  # what is outstanding then counts as unanswered


@dataclass(frozen=True)
class Hammer:
    """`connections` ask the `requests` in turn, each connection its own share,
    for `seconds` after the warm-up.
    """

    address: str
    port: int
    requests: Sequence[bytes]
    connections: int
    seconds: float


class Call(NamedTuple):
    """One request at its moment, seconds from the start; `pool` is whose connections it uses."""

    at_s: float
    label: str
    request: bytes
    pool: str


@dataclass(frozen=True)
class Pace:
    """`calls` in order of time over `pools` (connections by name), while `sockets` listen."""

    address: str
    port: int
    calls: Sequence[Call]
    pools: dict[str, int]
    sockets: Sequence[bytes] = ()


def hammer(plan: Hammer) -> Load:
    """Runs `plan` in another process."""
    return elsewhere(_hammer, plan)


def pace(plan: Pace) -> Load:
    """Runs `plan` in another process."""
    return elsewhere(_pace, plan)


def elsewhere(function: Callable[[P], R], plan: P) -> R:
    """`function(plan)` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, plan).result()


def run(main: Coroutine[Any, Any, R]) -> R:
    """`asyncio.run` on the faster loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def ask_all(address: str, port: int, requests: Sequence[bytes], connections: int = 8) -> list[Answer]:
    """The answers of `requests` in order, asked from this process."""

    async def ask() -> list[Answer]:
        answers: list[Answer] = [Answer(0, b"")] * len(requests)
        turns = iter(range(len(requests)))

        async def worker() -> None:
            connection = Connection(address, port)
            for turn in turns:
                answers[turn] = await connection.ask(requests[turn])
            connection.close()

        await asyncio.gather(*(worker() for _ in range(min(connections, len(requests)))))
        return answers

    return run(ask())


def _hammer(plan: Hammer) -> Load:
    return run(_closed_loop(plan))


def _pace(plan: Pace) -> Load:
    return run(_open_loop(plan))


async def _closed_loop(plan: Hammer) -> Load:
    samples = Samples()
    counts_from = time.perf_counter() + WARM_UP_S
    ends = counts_from + plan.seconds
    busy = [0.0]

    async def worker(requests: Sequence[bytes]) -> None:
        connection = Connection(plan.address, plan.port)
        turn, clock = 0, time.perf_counter
        while (began := clock()) < ends and len(samples.milliseconds) < MAX_REQUESTS:
            status, body = await connection.ask(requests[turn % len(requests)])
            turn += 1
            if began >= counts_from:
                samples.add(clock() - began, status, len(body))
        connection.close()

    async def watch_own_processor() -> None:
        await asyncio.sleep(WARM_UP_S)
        before = time.process_time()
        await asyncio.sleep(plan.seconds)
        busy[0] = (time.process_time() - before) / plan.seconds

    shares = [plan.requests[index :: plan.connections] or plan.requests for index in range(plan.connections)]
    unanswered = await _bounded(
        [worker(share) for share in shares] + [watch_own_processor()],
        WARM_UP_S + plan.seconds + ANSWER_WITHIN_S,
    )
    return Load({"": samples}, plan.seconds, busy[0], unanswered)


async def _open_loop(plan: Pace) -> Load:
    load = Load({call.label: Samples() for call in plan.calls}, seconds=0.0)
    free: dict[str, asyncio.LifoQueue[Connection]] = {}
    for name, size in plan.pools.items():
        free[name] = asyncio.LifoQueue()
        for _ in range(size):
            free[name].put_nowait(Connection(plan.address, plan.port))
    frames: list[tuple[float, bytes]] = []

    def hear(moment: float, text: bytes) -> None:
        if len(frames) < MAX_FRAMES:
            frames.append((moment, text))

    sockets = [await Socket.open(plan.address, plan.port, request, hear) for request in plan.sockets]
    before, start = time.process_time(), time.perf_counter()

    async def call_at(call: Call) -> None:
        connection = await free[call.pool].get()
        answer = await connection.ask(call.request)
        load.samples[call.label].add(time.perf_counter() - start - call.at_s, answer.status, len(answer.body))
        free[call.pool].put_nowait(connection)

    async def schedule() -> None:
        tasks = []
        for call in plan.calls[:MAX_REQUESTS]:
            if (wait := start + call.at_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(call_at(call)))
        load.seconds = time.perf_counter() - start - plan.calls[0].at_s
        load.unanswered = await _bounded(tasks, ANSWER_WITHIN_S)

    await schedule()
    load.busy_share = (time.process_time() - before) / (time.perf_counter() - start)
    if sockets:
        await asyncio.sleep(FRAMES_WITHIN_S)
    load.lost_sockets = sum(not socket.is_open for socket in sockets)
    for socket in sockets:
        socket.close()
    for moment, text in frames:
        frame = orjson.loads(text)
        told = datetime.fromisoformat(frame["timestamp"]).timestamp()
        load.frames.setdefault(frame["event"], Samples()).add(moment - told, 200, len(text))
    return load


async def _bounded(work: Sequence[Awaitable[None]], seconds: float) -> int:
    """Await all of `work`, at most `seconds`; how many were still at it."""
    if not work:
        return 0
    done, late = await asyncio.wait([asyncio.ensure_future(one) for one in work], timeout=seconds)
    for one in late:
        one.cancel()
    for one in done:
        one.result()  # a fault of the generator is no measurement
    return len(late)
