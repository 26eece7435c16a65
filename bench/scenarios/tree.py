"""The list every canvas loads."""

from __future__ import annotations

from bench import wire
from bench.measurement import Measurement
from bench.scenario import scenario
from bench.session import Session

WORKSPACES = 1000


@scenario("list", about="GET /workspaces with 1,000 rows, plain and compressed", workspaces=WORKSPACES)
def listing(session: Session) -> list[Measurement]:
    session.agents(WORKSPACES)
    found = []
    for label, encoding in (("plain", "identity"), ("gzip", "gzip")):
        headers = {"Accept-Encoding": encoding}
        asked = wire.request("GET", "/workspaces", token=session.target.token, headers=headers)
        found.append(session.hammer(label, [asked], connections=min(session.connections, 8)))
    return found
