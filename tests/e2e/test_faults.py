"""Services that stumble: what still answers, what is refused and how, and what comes back by itself."""

from __future__ import annotations

import json
import signal

from websockets.exceptions import ConnectionClosed

from tests.e2e.conftest import Operator
from tests.stack.running import ask, eventually


def external(operator: Operator, name: str) -> tuple[str, str]:
    created = operator.post("/workspaces", {"name": name, "runtime": "external"})
    return created["id"], created["connection"]["auth_token"]


def beat(operator: Operator, workspace_id: str, token: str) -> int:
    body = json.dumps({"workspace_id": workspace_id, "uptime_seconds": 5}).encode()
    headers = {"Authorization": f"Bearer {token}"}
    return ask(f"{operator.url}/registry/heartbeat", body=body, headers=headers).status


def test_without_valkey_heartbeats_count_and_live_updates_come_back(operator: Operator):
    one, token = external(operator, "valkey fault")
    assert beat(operator, one, token) == 200
    valkey = operator.stack.part("valkey")
    valkey.suspend()  # the worst way to be away: connections stay open and nothing answers
    try:
        assert beat(operator, one, token) == 200
        other, _ = external(operator, "made without valkey")
    finally:
        valkey.resume()
    assert operator.status(other) == "awaiting_agent"

    valkey.kill()  # and comes back empty: a cache may be lost
    eventually(lambda: operator.call("GET", "/health/ready").status == 200, 60)
    eventually(lambda: _sees_a_beat(operator, one, token), 60)
    made = operator.create("after the flood")  # its message to the workers travels through the new one
    operator.until(made, "online", within_s=60)


def _sees_a_beat(operator: Operator, workspace_id: str, token: str) -> bool:
    """Whether a change made now reaches a new socket."""
    with operator.socket() as socket:
        operator.create("seen", runtime="external")
        try:
            return bool(socket.recv(timeout=2)) and beat(operator, workspace_id, token) == 200
        except (TimeoutError, ConnectionClosed):
            return False


def test_while_postgres_is_away_the_answer_is_retry_and_nothing_needs_a_restart(operator: Operator):
    one, token = external(operator, "postgres fault")
    before = {name: operator.stack.part(name).pid for name in ("api", "realtime", "worker", "sweeps", "beat")}
    operator.stack.part("postgres").send_signal(signal.SIGKILL)
    seen = []

    def is_back() -> bool:
        answer = operator.call("GET", "/workspaces")
        if answer.status != 200:
            seen.append(answer)
        return answer.status == 200 and beat(operator, one, token) == 200

    eventually(is_back, 60)
    assert {answer.status for answer in seen} <= {503}
    assert all(answer.json()["code"] == "platform_unavailable" for answer in seen)
    assert operator.status(one) in {"online", "awaiting_agent"}
    made = operator.create("after the crash")
    operator.until(made, "online", within_s=60)
    after = {name: operator.stack.part(name).pid for name in before}
    assert after == before
