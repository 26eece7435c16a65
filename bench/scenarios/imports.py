"""Org templates of three sizes: a tree that is not there yet, then the same import again."""

from __future__ import annotations

import secrets
import time
from typing import Any

from bench.errors import BenchError
from bench.measurement import Measurement, of_samples
from bench.scenario import scenario
from bench.session import PREFIX, Session
from bench.statistics import Samples

NODES = (12, 60, 500)
CHILDREN = 8  # of each node
TIMES = 5


@scenario(
    "import",
    about="POST /org/import of 12, 60 and 500 nodes without compute: created, then skipped",
    workspaces=max(NODES),
)
def imports(session: Session) -> list[Measurement]:
    return [row for nodes in NODES for row in _of(session, nodes)]


def _of(session: Session, nodes: int) -> list[Measurement]:
    created, skipped = Samples(), Samples()
    began = time.monotonic()
    for _ in range(TIMES):
        body = {"template": template(nodes, f"{PREFIX}{secrets.token_hex(4)}")}
        root = _timed(session, body, created, "created", nodes)
        _timed(session, body, skipped, "skipped", nodes)
        session.call("DELETE", f"/workspaces/{root}?confirm=true")
    seconds = time.monotonic() - began
    return [
        of_samples(f"{nodes} nodes, created", created, seconds),
        of_samples(f"{nodes} nodes, skipped", skipped, seconds),
    ]


def _timed(session: Session, body: dict[str, Any], into: Samples, outcome: str, nodes: int) -> str:
    """Import once; returns the root's id. Raises BenchError unless it did what it is measured for."""
    began = time.monotonic()
    answer = session.call("POST", "/org/import", body)
    into.add(time.monotonic() - began, answer.status, len(answer.body))
    told = answer.json()
    if (told[outcome], told["count"]) != (nodes, nodes):
        raise BenchError(f"an import of {nodes} nodes has {outcome} {told[outcome]}")
    return str(told["workspaces"][0]["id"])


def template(nodes: int, name: str) -> dict[str, Any]:
    """An inline template of so many external nodes below one root called `name`."""
    made: list[dict[str, Any]] = [
        {"name": f"Role {number}" if number else name, "external": True, "children": []}
        for number in range(nodes)
    ]
    for number in range(1, nodes):
        made[(number - 1) // CHILDREN]["children"].append(made[number])
    return {"name": name, "workspaces": [made[0]]}
