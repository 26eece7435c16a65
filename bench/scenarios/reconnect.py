"""The realtime process is killed while canvases listen; each comes back and loads the tree again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from bench import load, sockets, usage, wire
from bench.errors import BenchError
from bench.measurement import Measurement
from bench.scenario import scenario
from bench.session import Session

SOCKETS = 100
WITHIN_S = 35.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0  # as the canvas waits: 1, 2, 4 ... seconds


@dataclass(frozen=True)
class Outage:
    """Whom to kill, and with what the canvases come back."""

    address: str
    port: int
    token: str
    victims: list[int]


@dataclass
class Return:
    """Seconds after the kill, per canvas; answers of the proxy while nobody was there, and 5xx afterwards."""

    back_after_s: list[float] = field(default_factory=list)
    first_open_s: float = float("inf")
    refusals: Counter[int] = field(default_factory=Counter)
    errors_when_ready: Counter[int] = field(default_factory=Counter)


@scenario("reconnect", about="kill -9 of the realtime process under 100 canvas sockets", workspaces=100)
def reconnect(session: Session) -> list[Measurement]:
    if session.target.folder is None:
        raise BenchError("The realtime process is found by --data-dir only; none was given for this address.")
    session.agents(100)
    victims = [process.pid for process in usage.realtime(session.target.folder)]
    if not victims:
        raise BenchError("No realtime process runs for this folder.")
    plan = Outage(session.target.address, session.target.port, session.target.token, victims)
    done = load.elsewhere(_survive, plan)
    problems = [
        f"{n} answers with {status} after it was ready" for status, n in done.errors_when_ready.items()
    ]
    if len(done.back_after_s) < SOCKETS:
        problems.append(f"{SOCKETS - len(done.back_after_s)} canvases were not back after {WITHIN_S:g} s")
    figures = {
        "count": float(len(done.back_after_s)),
        "first_back_s": done.first_open_s,
        "all_back_s": max(done.back_after_s, default=float("nan")),
        "refused_meanwhile": float(sum(done.refusals.values())),
        "errors_5xx_when_ready": float(sum(done.errors_when_ready.values())),
    }
    return [Measurement(f"{SOCKETS} sockets back with the tree", figures, problems)]


def _survive(plan: Outage) -> Return:
    return load.run(_come_back(plan))


async def _come_back(plan: Outage) -> Return:
    found = Return()
    request = sockets.upgrade(plan.token)

    async def opened() -> sockets.Socket:
        return await sockets.Socket.open(plan.address, plan.port, request, lambda moment, text: None)

    tabs = [await opened() for _ in range(SOCKETS)]
    for pid in plan.victims:
        os.kill(pid, signal.SIGKILL)
    killed_at = time.monotonic()

    async def tab(socket: sockets.Socket) -> None:
        await socket.closed
        wait_s = FIRST_WAIT_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            is_ready = found.first_open_s < time.monotonic() - killed_at
            try:
                await opened()
                break
            except sockets.Refused as refusal:
                (found.errors_when_ready if is_ready else found.refusals)[refusal.status] += 1
        found.first_open_s = min(found.first_open_s, time.monotonic() - killed_at)
        connection = wire.Connection(plan.address, plan.port)
        answer = await connection.ask(wire.request("GET", "/workspaces", token=plan.token))
        connection.close()
        if answer.status == 200:
            found.back_after_s.append(time.monotonic() - killed_at)
        else:
            found.errors_when_ready[answer.status] += 1

    await asyncio.wait([asyncio.create_task(tab(one)) for one in tabs], timeout=WITHIN_S)
    return found
