"""Two hundred delegations while everything that carries them is killed in turn: none is lost, none is told
twice, and nothing that surely arrived is done again.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from stack import ports
from tests.e2e.conftest import Operator
from tests.e2e.test_tour import agents_of
from tests.stack.conftest import reachable_folder
from tests.stack.running import Running, ask, eventually

pytestmark = pytest.mark.timeout(600)
DELEGATIONS = 200
WORK_S = 0.4


class Agent:
    """A workspace of somebody else: really listens, takes its time, and notes every task it did."""

    def __init__(self, operator: Operator, name: str) -> None:
        created = operator.post("/workspaces", {"name": name, "runtime": "external"})
        self.id, self._token = created["id"], created["connection"]["auth_token"]
        self._operator = operator
        self.done: list[tuple[str, bool]] = []  # (message id, whether it was marked as sent again)
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = body["params"]["message"]
                agent.done.append((message["messageId"], "X-A2A-Redelivery" in self.headers))
                time.sleep(WORK_S)
                said = {"kind": "text", "text": f"done: {message['parts'][0]['text']}"}
                result = {"kind": "message", "role": "agent", "parts": [said]}
                data = json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result}).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # whoever asked was killed

            def log_message(self, *given: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        card = {"id": self.id, "url": url, "agent_card": {"name": name}, "delivery_mode": "push"}
        eventually(lambda: self._call("/registry/register", card) == 200, 30)
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(2):
            self._call(
                "/registry/heartbeat", {"workspace_id": self.id, "uptime_seconds": 9, "active_tasks": 0}
            )

    def _call(self, path: str, body: Any) -> int:
        headers = {"Authorization": f"Bearer {self._token}"}
        return ask(f"{self._operator.url}{path}", body=json.dumps(body).encode(), headers=headers).status

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Org:
    operator: Operator
    agents: list[Agent]
    managed: list[str]

    @property
    def ids(self) -> list[str]:
        return [*(agent.id for agent in self.agents), *self.managed]

    def delegate(self, number: int) -> tuple[str, str]:
        """(delegator, delegation); safe to repeat, so it is repeated until it is taken."""
        ids = self.ids
        caller, target = ids[number % len(ids)], ids[(number + 1 + number // len(ids)) % len(ids)]
        if caller == target:
            target = ids[(number + 2) % len(ids)]
        body = {"target_id": target, "task": f"task {number}", "idempotency_key": f"key {number}"}
        deadline = time.monotonic() + 120
        while True:
            answer = self.operator.call("POST", f"/workspaces/{caller}/delegate", body)
            if answer.status == 202:
                return caller, str(answer.json()["delegation_id"])
            assert answer.status in {0, 502, 503}, answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.3)

    def in_doubt(self) -> int:
        stats = self.operator.get("/admin/delegations/stats")
        return sum(stats[status] for status in ("queued", "dispatched", "in_progress"))

    def entries(self, caller: str) -> dict[str, Any]:
        rows = self.operator.get(f"/workspaces/{caller}/delegations?limit=200")
        return {row["delegation_id"]: row for row in rows}

    def told(self, caller: str) -> Counter[str]:
        """How often the inbox tells of each delegation."""
        rows = self.operator.get(f"/workspaces/{caller}/activity?type=a2a_receive&limit=500")
        return Counter(
            row["request_body"]["delegation_id"] for row in rows if row["method"] == "delegate_result"
        )


@pytest.fixture
def org() -> Iterator[Org]:
    quick = {
        "RATE_LIMIT": "100000",
        "MOLECULE_ENV": "development",  # agents listen on loopback
        "DELEGATION_SWEEPER_INTERVAL_S": "3",
        "DELEGATION_REDISPATCH_AFTER_S": "3",
        "A2A_QUEUE_SWEEPER_INTERVAL_S": "2",
    }
    with reachable_folder() as home:
        stack = Running("stack up", home / "data", ports.choose(1)[0], **quick)
        agents: list[Agent] = []
        try:
            stack.until_up()
            operator = Operator(stack)
            agents += [Agent(operator, f"outside {number}") for number in range(8)]
            managed = [operator.create(f"inside {number}") for number in range(2)]
            for one in managed:
                operator.until(one, "online", within_s=60)
            yield Org(operator, agents, managed)
        finally:
            for agent in agents:
                agent.close()
            stack.kill_whatever_is_left()


def test_nothing_is_lost_and_nobody_is_told_twice_while_everything_is_killed_in_turn(org: Org):
    stack = org.operator.stack
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(org.delegate, number) for number in range(DELEGATIONS)]
        for name in ("delegations", "agent", "realtime", "valkey", "delegations"):
            time.sleep(2)  # in the middle of the work
            if name == "agent":
                for process in agents_of(org.managed[0]):
                    process.kill()
            else:
                stack.part(name).kill()
        made = [one.result() for one in asked]
    assert len({delegation for _, delegation in made}) == DELEGATIONS
    eventually(lambda: org.in_doubt() == 0, 240)

    outcome: Counter[str] = Counter()
    for caller in org.ids:
        entries, told = org.entries(caller), org.told(caller)
        for delegation in (one for who, one in made if who == caller):
            entry = entries[delegation]
            outcome[entry["ledger_status"]] += 1
            match entry["ledger_status"]:
                case "completed":
                    assert entry["response_preview"], entry
                    assert told[delegation] == 1, entry
                case "failed":
                    assert entry["error_detail"], entry
                    assert told[delegation] == 1, entry
                case "stuck":
                    assert entry["error_detail"], entry
                    assert told[delegation] == 0, entry
                case status:
                    pytest.fail(f"{delegation} is {status}")
    sys.stdout.write(f"outcome: {dict(outcome)}\n")
    assert outcome["completed"] > DELEGATIONS // 2

    # Sent a second time only when nobody could know whether it had arrived, and marked as such.
    for agent in org.agents:
        unmarked = Counter(message for message, again in agent.done if not again)
        assert max(unmarked.values(), default=0) <= 1, unmarked.most_common(3)
