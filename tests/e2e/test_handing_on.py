"""The delegation of the tour in an imported org; callees that poll, are busy, sleep or die half way."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stack import ports
from tests.agent.processes import AgentProcess, write_config
from tests.e2e.conftest import Operator
from tests.e2e.test_tour import agents_of, external_agent, frames_until
from tests.stack.conftest import reachable_folder
from tests.stack.running import Running, eventually

pytestmark = pytest.mark.timeout(300)
STORY = ["DELEGATION_SENT", "DELEGATION_STATUS", "DELEGATION_COMPLETE"]


@dataclass(frozen=True)
class Org:
    operator: Operator
    coordinator: str
    bookkeeper: str

    def outside(self, name: str) -> tuple[str, str]:
        """(id, token) of a new external workspace below the coordinator."""
        body = {"name": name, "runtime": "external", "parent_id": self.coordinator}
        created = self.operator.post("/workspaces", body)
        return created["id"], created["connection"]["auth_token"]

    def delegate(self, callee: str, task: str) -> str:
        body = {"target_id": callee, "task": task}
        return str(self.operator.post(f"/workspaces/{self.coordinator}/delegate", body)["delegation_id"])

    def entry(self, delegation: str) -> dict[str, Any]:
        rows = self.operator.get(f"/workspaces/{self.coordinator}/delegations")
        (found,) = [row for row in rows if row["delegation_id"] == delegation]
        return dict(found)

    def assert_story(self, delegation: str, callee: str, said: str) -> None:
        """The ledger, the feed and the inbox of the coordinator say that it ended with `said`, once each."""
        eventually(lambda: self.entry(delegation)["status"] == "completed", 120)
        assert self.entry(delegation)["response_preview"] == said
        feed = self.operator.get(f"/workspaces/{self.coordinator}/activity?type=delegation&limit=200")
        mine = [row for row in feed if row["request_body"].get("delegation_id") == delegation]
        assert sorted(row["method"] for row in mine) == ["delegate", "delegate_result"]
        inbox = self.operator.get(f"/workspaces/{self.coordinator}/activity?type=a2a_receive&limit=200")
        told = [row for row in inbox if row["request_body"].get("delegation_id") == delegation]
        assert [(row["source_id"], row["response_body"]["text"]) for row in told] == [(callee, said)]


@pytest.fixture(scope="module")
def org() -> Iterator[Org]:
    with reachable_folder() as home:
        # Development: an external agent may listen on loopback.
        stack = Running("stack up", home / "data", ports.choose(1)[0], MOLECULE_ENV="development")
        try:
            operator = Operator(stack.until_up())
            operator.call("PUT", "/settings/secrets", {"key": "ANTHROPIC_API_KEY", "value": "not a real one"})
            answer = operator.post("/org/import", {"dir": "small"})
            ids = {one["name"]: one["id"] for one in answer["workspaces"]}
            for one in ids.values():
                operator.until(one, "online", within_s=60)
            yield Org(operator, ids["Coordinator"], ids["Bookkeeper"])
        finally:
            stack.kill_whatever_is_left()


def test_inside_an_imported_org_everybody_tells_the_same_story(org: Org) -> None:
    with org.operator.socket() as canvas:
        delegation = org.delegate(org.bookkeeper, "count the beans")
        seen = frames_until(canvas, "DELEGATION_COMPLETE", org.coordinator)
    assert [name for name in seen if name.startswith("DELEGATION")] == STORY
    org.assert_story(delegation, org.bookkeeper, "echo: count the beans")


def test_a_callee_that_polls_fetches_it_and_completes_it(org: Org, tmp_path: Path) -> None:
    callee, token = org.outside("laptop")
    delegation = org.delegate(callee, "count the leaves")
    with external_agent(org.operator.url, callee, token, tmp_path) as output:
        org.assert_story(delegation, callee, "echo: count the leaves")
        assert "inbox: message from" in output.read_text()


def test_a_busy_callee_gets_it_when_its_hands_are_free(org: Org, tmp_path: Path) -> None:
    callee, token = org.outside("one hand")
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"match": "long work", "delay_s": 4}]))
    config = write_config(tmp_path / "configs", token=token)
    words = ["serve", "--config-dir", str(config), "--platform-url", org.operator.url, "--workspace", callee]
    words += ["--port", "0", "--max-tasks", "1", "--script", str(script)]
    agent = AgentProcess(*words, directory=tmp_path)
    try:
        org.operator.until(callee, "online", within_s=30)
        work = {"message": {"role": "user", "parts": [{"kind": "text", "text": "long work"}]}}
        body = {"method": "message/send", "params": work}
        canvas = threading.Thread(target=org.operator.post, args=(f"/workspaces/{callee}/a2a", body))
        canvas.start()
        eventually(lambda: org.operator.get(f"/workspaces/{callee}")["active_tasks"] == 1, 10)
        delegation = org.delegate(callee, "count the stars")
        eventually(lambda: org.entry(delegation)["status"] == "queued", 10)
        canvas.join()
        org.assert_story(delegation, callee, "echo: count the stars")
    finally:
        agent.kill()


def test_a_sleeping_callee_wakes_up_for_it(org: Org) -> None:
    assert org.operator.call("POST", f"/workspaces/{org.bookkeeper}/hibernate", {}).status == 200
    org.operator.until(org.bookkeeper, "hibernated", within_s=30)
    delegation = org.delegate(org.bookkeeper, "count the sheep")
    org.assert_story(delegation, org.bookkeeper, "echo: count the sheep")
    org.operator.until(org.bookkeeper, "online", within_s=30)


def test_a_callee_that_dies_half_way_does_it_when_it_is_back(org: Org) -> None:
    org.operator.until(org.bookkeeper, "online", within_s=60)
    (agent,) = agents_of(org.bookkeeper)
    agent.send_signal(signal.SIGSTOP)  # it has the message and does not answer
    delegation = org.delegate(org.bookkeeper, "count the days")
    eventually(lambda: org.entry(delegation)["status"] == "dispatched", 15)
    agent.kill()
    org.assert_story(delegation, org.bookkeeper, "echo: count the days")
