"""Frames to many canvases."""

from __future__ import annotations

from bench import load, sockets
from bench.measurement import Measurement, of_load, of_samples
from bench.scenario import scenario
from bench.session import Session, heartbeat
from bench.statistics import Samples

AGENTS, SOCKETS = 100, 100
RATES = (33, 100)  # frames/s published; each goes to every socket
DELIVERED_AT_LEAST = 1.0
LISTENING_AFTER_S = 1.0  # a socket is admitted before it listens


@scenario(
    "fan-out", about="a changed task every 1/33 and 1/100 s, seen by 100 canvas sockets", workspaces=AGENTS
)
def fan_out(session: Session) -> list[Measurement]:
    return [row for rate in RATES for row in _at(session, rate)]


def _at(session: Session, rate: int) -> list[Measurement]:
    agents = session.agents(AGENTS)
    total = int(rate * session.seconds)
    calls = [
        load.Call(
            LISTENING_AFTER_S + index / rate,
            "heartbeat",
            heartbeat(agents[index % AGENTS], active_tasks=1, current_task=f"bench task {index} at {rate}/s"),
            "agents",
        )
        for index in range(total)
    ]
    plan = load.Pace(
        session.target.address,
        session.target.port,
        calls,
        {"agents": session.connections},
        [sockets.upgrade(session.target.token)] * SOCKETS,
    )
    done = load.pace(plan)
    heard = done.frames.get("TASK_UPDATED", Samples())
    delivered = len(heard.milliseconds) / (total * SOCKETS)
    problems = [f"only {delivered:.1%} of the frames arrived"] if delivered < DELIVERED_AT_LEAST else []
    if done.lost_sockets:
        problems.append(f"{done.lost_sockets} of {SOCKETS} sockets were closed")
    return [
        of_samples(f"{rate} frames/s to {SOCKETS} sockets", heard, done.seconds, problems=problems),
        of_load(f"the heartbeats that cause {rate} frames/s", done, sample="heartbeat"),
    ]
