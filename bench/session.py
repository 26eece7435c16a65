"""What scenarios share: the stack, its load settings, and workspaces of their own that are removed again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench import load, usage, wire
from bench.errors import BenchError
from bench.measurement import Measurement, of_load
from bench.target import Target

PREFIX = "bench-"


class Agent(NamedTuple):
    """A workspace of the benchmark and its token."""

    id: str
    token: str


@dataclass
class Session:
    """One run of the benchmark."""

    target: Target
    seconds: float = 10.0
    connections: int = 16
    tell: Callable[[str], None] = print
    _agents: list[Agent] = field(default_factory=list)
    _root: str = ""

    def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> wire.Answer:
        """One request, as the operator unless a token is given. Raises BenchError unless it succeeds."""
        return self.call_all([wire.request(method, path, token=token or self.target.token, body=body)])[0]

    def call_all(self, requests: Sequence[bytes]) -> list[wire.Answer]:
        """Answers in order. Raises BenchError for the first that is no success."""
        answers = load.ask_all(self.target.address, self.target.port, requests)
        for asked, answer in zip(requests, answers, strict=True):
            if not 200 <= answer.status < 300:
                line = asked.split(b" HTTP/", 1)[0].decode()
                raise BenchError(
                    f"{line} answered {answer.status}: {answer.body[:200].decode(errors='replace')}"
                )
        return answers

    def answers(self, path: str, *, token: str | None = None) -> bool:
        """Whether the stack has the route: anything but 404 and 405."""
        asked = wire.request("GET", path, token=token or self.target.token)
        (answer,) = load.ask_all(self.target.address, self.target.port, [asked])
        return answer.status not in {404, 405}

    def agents(self, count: int) -> list[Agent]:
        """`count` external workspaces that are online, all under one root."""
        if not self._root:
            created = self.call("POST", "/workspaces", self._body(f"{PREFIX}{secrets.token_hex(4)}"))
            self._root = created.json()["id"]
        missing = range(len(self._agents), count)
        if len(missing) > 100:
            self.tell(f"creating {len(missing)} workspaces")
        creations = [self._body(f"{PREFIX}agent-{index:04}", self._root) for index in missing]
        made = self.call_all(
            [wire.request("POST", "/workspaces", token=self.target.token, body=body) for body in creations]
        )
        fresh = [Agent(one["id"], one["connection"]["auth_token"]) for one in (a.json() for a in made)]
        self.call_all([heartbeat(agent) for agent in fresh])
        self._agents += fresh
        return self._agents[:count]

    def clean_up(self) -> None:
        """Remove every workspace of this run."""
        if self._root:
            root, self._root, self._agents = self._root, "", []
            self.call("DELETE", f"/workspaces/{root}?confirm=true")

    def hammer(self, label: str, requests: Sequence[bytes], *, connections: int | None = None) -> Measurement:
        """The highest rate at which `requests` are answered."""
        plan = load.Hammer(
            self.target.address,
            self.target.port,
            requests,
            connections or self.connections,
            self.seconds,
        )
        with usage.measured(self.target.folder) as spent:
            done = load.hammer(plan)
        share = self.seconds / (self.seconds + load.WARM_UP_S)
        return of_load(label, done, {name: seconds * share for name, seconds in spent.items()})

    def _body(self, name: str, parent_id: str | None = None) -> dict[str, Any]:
        return {"name": name, "runtime": "external", "delivery_mode": "poll", "parent_id": parent_id}


def heartbeat(agent: Agent, **changes: Any) -> bytes:
    """A full report; by default the same every time."""
    body = {
        "workspace_id": agent.id,
        "error_rate": 0.0,
        "sample_error": "",
        "active_tasks": 0,
        "uptime_seconds": 3600,
        "current_task": "",
        **changes,
    }
    return wire.request("POST", "/registry/heartbeat", token=agent.token, body=body)


@contextmanager
def opened(session: Session) -> Iterator[Session]:
    """The session, cleaned up whatever happens; what an earlier run left is named."""
    for row in session.call("GET", "/workspaces").json():
        if row["parent_id"] is None and str(row["name"]).startswith(PREFIX):
            session.tell(f"{row['name']} is left of another run; DELETE /workspaces/{row['id']}?confirm=true")
    try:
        yield session
    finally:
        session.clean_up()
