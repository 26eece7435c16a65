"""The hottest write."""

from __future__ import annotations

from bench.measurement import Measurement
from bench.scenario import scenario
from bench.session import Session, heartbeat

AGENTS = 100


@scenario("heartbeats", about="full reports of 100 agents, nothing changes", workspaces=AGENTS)
def heartbeats(session: Session) -> list[Measurement]:
    return [session.hammer("POST /registry/heartbeat", [heartbeat(one) for one in session.agents(AGENTS)])]
