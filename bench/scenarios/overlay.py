"""The burst a canvas makes whenever the set of visible workspaces changes."""

from __future__ import annotations

from bench import load, wire
from bench.measurement import Measurement, of_load
from bench.scenario import scenario
from bench.session import Session

CALLS, CONNECTIONS = 1000, 6
WITHIN_S = 15.0  # the canvas aborts a call that long after it was queued
QUERY = "type=delegation&limit=500&source=agent"


@scenario("overlay", about="1,000 overlay calls of one tab over 6 connections, all at once", workspaces=CALLS)
def overlay(session: Session) -> list[Measurement]:
    paths = [f"/workspaces/{agent.id}/activity?{QUERY}" for agent in session.agents(CALLS)]
    asked = [wire.request("GET", path, token=session.target.token) for path in paths]
    calls = [load.Call(0.0, "all", one, "tab") for one in asked]
    done = load.pace(load.Pace(session.target.address, session.target.port, calls, {"tab": CONNECTIONS}))
    seconds = max(done.samples["all"].milliseconds) / 1000
    done.seconds = seconds
    row = of_load(f"total {seconds:.2f} s", done, sample="all")
    if seconds < WITHIN_S:
        return [row]
    late = f"the last call took {seconds:.1f} s, the canvas gives up after {WITHIN_S:g} s"
    return [Measurement(row.label, row.figures, [*row.problems, late], row.remarks)]
