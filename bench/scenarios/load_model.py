"""The real clients at their real rates: W agents in containers, C open canvas tabs, nobody clicks.

An open loop: each client has its own phase, and a tab's burst goes over its 6 connections at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from bench import load, sockets, wire
from bench.measurement import Measurement, of_load
from bench.scenario import scenario
from bench.session import Agent, Session, heartbeat

SECONDS = 60.0
TAB_CONNECTIONS, AGENT_CONNECTIONS = 6, 64
OVERLAY = "type=delegation&limit=500&source=agent"
SEED = 7  # the same phases every time


def model(agents: list[Agent], tabs: int, admin: str, *, without: frozenset[str]) -> list[load.Call]:
    """All requests of SECONDS in order of time, but the routes `without`."""
    calls = [call for call in _all_calls(agents, tabs, admin) if call.label not in without]
    return sorted(calls, key=lambda call: call.at_s)


def _all_calls(agents: list[Agent], tabs: int, admin: str) -> Iterator[load.Call]:
    phases = random.Random(SEED)

    def ticks(interval_s: float) -> Iterator[float]:
        at = phases.uniform(0, interval_s)
        while at < SECONDS:
            yield at
            at += interval_s

    def get(path: str, token: str = admin) -> bytes:
        return wire.request("GET", path, token=token)

    for number in range(tabs):
        pool = f"tab {number}"
        loaded_at = phases.uniform(0, SECONDS)
        for _ in range(2):
            yield load.Call(loaded_at, "list", get("/workspaces"), pool)
        for at in ticks(10):
            yield load.Call(at, "approvals", get("/approvals/pending"), pool)
        for at in ticks(30):
            for agent in agents[:3]:
                yield load.Call(at, "recent", get(f"/workspaces/{agent.id}/activity?limit=5"), pool)
        for at in ticks(60):
            for agent in agents:
                yield load.Call(at, "overlay", get(f"/workspaces/{agent.id}/activity?{OVERLAY}"), pool)
    for agent in agents:
        for at in ticks(30):
            yield load.Call(at, "heartbeat", heartbeat(agent), "agents")
        for at in ticks(30):
            path = f"/workspaces/{agent.id}/delegations"
            yield load.Call(at, "delegations", get(path, agent.token), "agents")


def _measure(session: Session, workspaces: int, tabs: int) -> list[Measurement]:
    agents = session.agents(workspaces)
    one = f"/workspaces/{agents[0].id}/delegations"
    routes = {"approvals": "/approvals/pending", "delegations": one}
    without = frozenset(label for label, path in routes.items() if not session.answers(path))
    calls = model(agents, tabs, session.target.token, without=without)
    pools = {f"tab {number}": TAB_CONNECTIONS for number in range(tabs)} | {"agents": AGENT_CONNECTIONS}
    listeners = [sockets.upgrade(session.target.token)] * tabs
    plan = load.Pace(session.target.address, session.target.port, calls, pools, listeners)
    done = load.pace(plan)
    rows = [of_load(label, done, sample=label) for label in done.samples]
    if without:
        rows.append(Measurement(f"without {', '.join(sorted(without))}: no such route here yet", {}))
    if done.lost_sockets:
        rows.append(Measurement("sockets", {}, [f"{done.lost_sockets} of {tabs} sockets were closed"]))
    return rows


def _register(workspaces: int, tabs: int, *, is_default: bool) -> None:
    about = f"{workspaces:,} agents and {tabs} tabs at their own rates for {SECONDS:g} s, open loop"

    @scenario(f"load-{workspaces}-{tabs}", about=about, workspaces=workspaces, is_default=is_default)
    def run(session: Session) -> list[Measurement]:
        return _measure(session, workspaces, tabs)


for _workspaces in (100, 1000):
    for _tabs in (1, 10, 100):
        _register(_workspaces, _tabs, is_default=(_workspaces, _tabs) == (100, 10))
