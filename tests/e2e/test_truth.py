"""A 2xx names an effect that a second read shows; a client that hangs up at once changes nothing about it."""

# ruff: noqa: E501  (a table reads better than its folded lines)

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.architecture.routes import routes
from tests.e2e.conftest import Operator
from tests.stack.running import ask, eventually

Values = dict[str, str]

# Mutating routes without a case here, each with its reason.
ELSEWHERE = {
    "POST /registry/check-access": "a question",
    "POST /secrets/validate": "not supported on this deployment",
    "DELETE /workspaces/:id/secrets/values": "DELETE of the secret named `values`",
    "POST /admin/workspaces/:id/bootstrap-failed": "tests/provisioning/test_boot.py: it needs a start that hangs",
    "POST /workspaces": "what every case begins with",
    "POST /workspaces/:id/a2a": "tests/e2e/test_tour.py: the message and its answer are in the feed",
    "POST /workspaces/:id/mcp": "a protocol of its own: tests/delegations/test_mcp.py",
    "POST /workspaces/:id/provision-plan": "a question",
    "POST /channels/discover": "a question",
    "POST /webhooks/:channel_type": "tests/chat_channels/test_webhooks.py: it needs a signature",
    "POST /workspaces/:id/channels/:channel_id/send": "tests/chat_channels/test_sending.py: it needs a provider",
    "POST /workspaces/:id/channels/:channel_id/test": "tests/chat_channels/test_sending.py: it needs a provider",
    "POST /workspaces/:id/schedules/:schedule_id/run": "a question: the canvas sends what it is told",
    "POST /workspaces/:id/chat/uploads": "a form: tests/uploads/test_upload.py",
    "POST /workspaces/:id/pending-uploads/:file_id/ack": "tests/uploads/test_ack.py: it needs a file",
    "POST /internal/workspaces/boot-events": "machines only: tests/provisioning/test_boot_bundles.py",
    "POST /admin/workspaces/duplicates/cleanup": "tests/provisioning/test_duplicates.py: it needs a plan",
    "POST /admin/workspace-images/refresh": "containers only: tests/provisioning",
    "POST /workspaces/:id/plugins": "tests/provisioning/test_plugins.py: it needs a catalogue",
    "DELETE /workspaces/:id/plugins/:name": "tests/provisioning/test_plugins.py: it needs a catalogue",
    "POST /admin/a2a-queue/drop-stale": "tests/a2a/test_queue.py: it needs a queue nobody drains",
    "POST /admin/memories/import": "tests/memory/test_backup.py: its effect is a whole export",
    "DELETE /workspaces/:id/v2/memories/:memory_id": "tests/memory/test_records.py: it needs a store of records",
    **dict.fromkeys(
        (f"{m} /cp/:path" for m in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")), "somebody else's"
    ),
}


@dataclass(frozen=True)
class Case:
    """One mutating route: what it needs, its request, and the read that shows its effect.

    `body` and the path take `{values}` of `arrange`; `as_agent` sends the workspace's own token.
    """

    route: str
    shows: Callable[[Operator, Values], Any]
    body: Any = None
    arrange: Callable[[Operator, Values], Values] = lambda operator, values: {}
    as_agent: bool = False

    def __str__(self) -> str:
        return self.route

    @property
    def method(self) -> str:
        return self.route.partition(" ")[0]

    def holds(self, operator: Operator, values: Values) -> bool:
        """Whether the effect shows; what is not there yet cannot be read."""
        with suppress(IndexError, KeyError, StopIteration, TypeError):
            return bool(self.shows(operator, values))
        return False

    def path(self, values: Values) -> str:
        path = self.route.partition(" ")[2]
        for name, value in sorted(values.items(), key=lambda one: -len(one[0])):
            path = path.replace(f":{name}", value)
        return path

    def data(self, values: Values) -> bytes:
        text = "" if self.body is None else json.dumps(self.body)
        for name, value in values.items():
            text = text.replace(f"<{name}>", value)
        return text.encode()


def listed(operator: Operator, values: Values) -> dict[str, Any]:
    return next((row for row in operator.get("/workspaces") if row["id"] == values["id"]), {})


def keys(operator: Operator, path: str) -> set[str]:
    return {row["key"] for row in operator.get(path)}


def of(operator: Operator, values: Values, tail: str) -> Any:
    return operator.get(f"/workspaces/{values['id']}/{tail}")


def has_event(event: str) -> Callable[[Operator, Values], bool]:
    return lambda o, v: any(one["event_type"] == event for one in o.get(f"/events/{v['id']}"))


def put(path: str, body: Any, method: str = "PUT") -> Callable[[Operator, Values], Values]:
    def arrange(operator: Operator, values: Values) -> Values:
        assert operator.call(method, path.replace(":id", values["id"]), body).status < 300
        return {}

    return arrange


def a_token(operator: Operator, values: Values) -> Values:
    operator.post(f"/workspaces/{values['id']}/tokens")
    tokens = of(operator, values, "tokens")["tokens"]
    return {"token_id": next(one["id"] for one in tokens if one["kind"] == "api")}


def an_org_token(operator: Operator, values: Values) -> Values:
    return {"token_id": operator.post("/org/tokens", {"name": "truth"})["id"]}


def a_question(operator: Operator, values: Values) -> Values:
    return {
        "approval_id": operator.post(f"/workspaces/{values['id']}/approvals", {"action": "x"})["approval_id"]
    }


def a_memory(operator: Operator, values: Values) -> Values:
    given = {"content": "old", "scope": "LOCAL"}
    return {"memory_id": operator.post(f"/workspaces/{values['id']}/memories", given)["id"]}


def memories(operator: Operator, values: Values) -> list[str]:
    return [one["content"] for one in of(operator, values, "memories")]


def compute(operator: Operator, values: Values) -> Values:
    one = operator.create(f"truth {uuid4().hex[:8]}")
    operator.until(one, "online", within_s=30)
    return {"id": one}


def a_file(operator: Operator, values: Values) -> Values:
    made = compute(operator, values)
    put(f"/workspaces/{made['id']}/files/truth.md", {"content": "old"})(operator, made)
    return {**made, "path": "truth.md"}


def content_of(operator: Operator, values: Values) -> str | None:
    found = operator.call("GET", f"/workspaces/{values['id']}/files/truth.md")
    return str(found.json()["content"]) if found.status == 200 else None


def paused(operator: Operator, values: Values) -> Values:
    made = compute(operator, values)
    operator.post(f"/workspaces/{made['id']}/pause")
    return made


def another(operator: Operator, values: Values) -> Values:
    put("/workspaces/:id/agent", {"model": "m"}, "POST")(operator, values)
    return {"target": operator.create(f"truth {uuid4().hex[:8]}", runtime="external")}


def a_target(operator: Operator, values: Values) -> Values:
    made = operator.post("/workspaces", {"name": f"truth {uuid4().hex[:8]}", "runtime": "external"})
    return {"target": made["id"], "delegation_id": uuid4().hex}


def a_delegation(operator: Operator, values: Values) -> Values:
    made = a_target(operator, values)
    body = {"target_id": made["target"], "task": "truth", "delegation_id": made["delegation_id"]}
    operator.post(f"/workspaces/{values['id']}/delegations/record", body)
    return made


def delegated(operator: Operator, values: Values) -> str:
    return str(of(operator, values, "delegations")[0]["ledger_status"])


def schedules(operator: Operator, values: Values) -> list[str]:
    return [one["name"] for one in of(operator, values, "schedules")]


def a_schedule(operator: Operator, values: Values) -> Values:
    made = operator.post(f"/workspaces/{values['id']}/schedules", {**DAILY, "name": "truth"})
    return {"schedule_id": made["id"]}


def decided(operator: Operator, values: Values) -> str:
    return str(next(one["status"] for one in of(operator, values, "approvals")))


def tokens(operator: Operator, values: Values) -> set[str]:
    return {one["id"] for one in of(operator, values, "tokens")["tokens"]}


def a_channel(operator: Operator, values: Values) -> Values:
    return {"channel_id": operator.post(f"/workspaces/{values['id']}/channels", CHANNEL)["id"]}


CHANNEL = {"channel_type": "telegram", "config": {"bot_token": "1:truth", "chat_id": "5"}}
DAILY = {"cron_expr": "0 9 * * *", "prompt": "plan the day"}
SECRET = {"key": "TRUTH", "value": "v"}
CARD = {"name": "Truth", "description": "x"}
CASES = [
    Case("PATCH /workspaces/:id", lambda o, v: listed(o, v)["role"] == "truth", {"role": "truth", "x": 1, "y": 2}),
    Case("DELETE /workspaces/:id", lambda o, v: o.status(v["id"]) == "removed"),
    Case("POST /workspaces/:id/pause", lambda o, v: o.status(v["id"]) == "paused"),
    Case("POST /workspaces/:id/resume", lambda o, v: o.status(v["id"]) == "online", arrange=paused),
    Case("POST /workspaces/:id/hibernate", lambda o, v: o.status(v["id"]) == "hibernated", arrange=compute),
    Case("POST /workspaces/:id/restart",
         lambda o, v: [r["state"] for r in of(o, v, "provision-runs")] == ["succeeded"] * 2, arrange=compute),
    Case("PATCH /workspaces/:id/budget", lambda o, v: of(o, v, "budget")["budget_limit"] == 9, {"budget_limit": 9}),
    Case("PATCH /workspaces/:id/config", lambda o, v: of(o, v, "config")["data"] == {"k": "v"}, {"k": "v"}),
    Case("PUT /workspaces/:id/model", lambda o, v: of(o, v, "model")["model"] == "openai/x", {"model": "openai/x"}),
    Case("PUT /workspaces/:id/provider", lambda o, v: of(o, v, "provider")["provider"] == "p", {"provider": "p"}),
    Case("POST /workspaces/:id/agent", has_event("AGENT_ASSIGNED"), {"model": "m"}),
    Case("PATCH /workspaces/:id/agent", has_event("AGENT_REPLACED"), {"model": "n"},
         put("/workspaces/:id/agent", {"model": "m"}, "POST")),
    Case("DELETE /workspaces/:id/agent", has_event("AGENT_REMOVED"),
         arrange=put("/workspaces/:id/agent", {"model": "m"}, "POST")),
    Case("POST /workspaces/:id/agent/move", has_event("AGENT_MOVED"), {"target_workspace_id": "<target>"}, another),
    Case("POST /workspaces/:id/secrets", lambda o, v: "TRUTH" in keys(o, f"/workspaces/{v['id']}/secrets"), SECRET),
    Case("PUT /workspaces/:id/secrets", lambda o, v: "TRUTH" in keys(o, f"/workspaces/{v['id']}/secrets"), SECRET),
    Case("DELETE /workspaces/:id/secrets/:key",
         lambda o, v: "TRUTH" not in keys(o, f"/workspaces/{v['id']}/secrets"),
         arrange=lambda o, v: put("/workspaces/:id/secrets", SECRET)(o, v) | {"key": "TRUTH"}),
    Case("POST /settings/secrets", lambda o, v: "TRUTH" in keys(o, "/settings/secrets"), SECRET),
    Case("PUT /settings/secrets", lambda o, v: "TRUTH" in keys(o, "/settings/secrets"), SECRET),
    Case("POST /admin/secrets", lambda o, v: "TRUTH" in keys(o, "/admin/secrets"), SECRET),
    Case("DELETE /settings/secrets/:key", lambda o, v: "TRUTH" not in keys(o, "/settings/secrets"),
         arrange=lambda o, v: put("/settings/secrets", SECRET)(o, v) | {"key": "TRUTH"}),
    Case("DELETE /admin/secrets/:key", lambda o, v: "TRUTH" not in keys(o, "/admin/secrets"),
         arrange=lambda o, v: put("/settings/secrets", SECRET)(o, v) | {"key": "TRUTH"}),
    Case("POST /workspaces/:id/tokens", lambda o, v: len(tokens(o, v)) == 2),
    Case("POST /admin/workspaces/:id/tokens", lambda o, v: len(tokens(o, v)) == 2),
    Case("DELETE /workspaces/:id/tokens/:token_id", lambda o, v: v["token_id"] not in tokens(o, v), arrange=a_token),
    Case("POST /org/tokens",
         lambda o, v: v["mark"] in {t.get("name") for t in o.get("/org/tokens")["tokens"]}, {"name": "<mark>"},
         lambda o, v: {"mark": uuid4().hex}),
    Case("DELETE /org/tokens/:token_id",
         lambda o, v: v["token_id"] not in {t["id"] for t in o.get("/org/tokens")["tokens"]}, arrange=an_org_token),
    Case("POST /workspaces/:id/external/rotate", has_event("EXTERNAL_CREDENTIALS_ROTATED")),
    Case("POST /workspaces/:id/activity", lambda o, v: of(o, v, "activity")[0]["summary"] == "truth",
         {"activity_type": "agent_log", "summary": "truth"}),
    Case("POST /workspaces/:id/activity/ack",
         lambda o, v: ack(o, v, 0) == 7, {"acked_seq": 7}, as_agent=True),
    Case("POST /workspaces/:id/notify", lambda o, v: of(o, v, "activity")[0]["method"] == "notify", {"message": "t"}),
    Case("POST /workspaces/:id/approvals", lambda o, v: decided(o, v) == "pending", {"action": "truth"}),
    Case("POST /workspaces/:id/approvals/:approval_id/decide", lambda o, v: decided(o, v) == "denied",
         {"decision": "denied"}, a_question),
    Case("POST /workspaces/:id/approvals/:approval_id/withdraw", lambda o, v: decided(o, v) == "withdrawn",
         arrange=a_question, as_agent=True),
    Case("POST /registry/register", lambda o, v: o.status(v["id"]) == "online",
         {"id": "<id>", "agent_card": CARD}, as_agent=True),
    Case("POST /registry/heartbeat", lambda o, v: o.status(v["id"]) == "online", {"workspace_id": "<id>"},
         as_agent=True),
    Case("POST /registry/update-card", lambda o, v: listed(o, v)["agent_card"]["name"] == "Truth",
         {"workspace_id": "<id>", "agent_card": CARD}),
    Case("POST /workspaces/:id/delegate", lambda o, v: of(o, v, "delegations")[0]["target_id"] == v["target"],
         {"target_id": "<target>", "task": "truth"}, a_target),
    Case("POST /workspaces/:id/delegations/record",
         lambda o, v: of(o, v, "delegations")[0]["delegation_id"] == v["delegation_id"],
         {"target_id": "<target>", "task": "truth", "delegation_id": "<delegation_id>"}, a_target),
    Case("POST /workspaces/:id/delegations/:delegation_id/update", lambda o, v: delegated(o, v) == "completed",
         {"status": "completed", "response_preview": "done"}, a_delegation),
    Case("POST /workspaces/:id/delegations/:delegation_id/heartbeat",
         lambda o, v: delegated(o, v) == "in_progress", arrange=a_delegation),
    Case("POST /admin/delegations/:delegation_id/resolve", lambda o, v: delegated(o, v) == "failed",
         {"action": "fail", "reason": "truth"}, a_delegation),
    Case("POST /workspaces/:id/schedules", lambda o, v: schedules(o, v) == ["new"], {**DAILY, "name": "new"}),
    Case("PATCH /workspaces/:id/schedules/:schedule_id", lambda o, v: schedules(o, v) == ["new"], {"name": "new"},
         a_schedule),
    Case("DELETE /workspaces/:id/schedules/:schedule_id", lambda o, v: schedules(o, v) == [], arrange=a_schedule),
    Case("POST /templates/import", lambda o, v: v["mark"] in {one["name"] for one in o.get("/templates")},
         {"name": "<mark>", "files": {"config.yaml": "name: <mark>"}}, lambda o, v: {"mark": uuid4().hex}),
    Case("POST /org/import", lambda o, v: v["mark"] in {row["name"] for row in o.get("/workspaces")},
         {"template": {"name": "truth", "workspaces": [{"name": "<mark>", "runtime": "external", "external": True}]}},
         lambda o, v: {"mark": uuid4().hex}),
    Case("PUT /workspaces/:id/files/:path", lambda o, v: content_of(o, v) == "new", {"content": "new"}, a_file),
    Case("PUT /workspaces/:id/files", lambda o, v: content_of(o, v) == "new", {"files": {"truth.md": "new"}}, a_file),
    Case("DELETE /workspaces/:id/files/:path", lambda o, v: content_of(o, v) is None, arrange=a_file),
    Case("POST /bundles/import", lambda o, v: v["mark"] in {row["name"] for row in o.get("/workspaces")},
         {"name": "<mark>"}, lambda o, v: {"mark": uuid4().hex}),
    Case("POST /workspaces/:id/channels",
         lambda o, v: [one["channel_type"] for one in of(o, v, "channels")] == ["telegram"], CHANNEL),
    Case("PATCH /workspaces/:id/channels/:channel_id", lambda o, v: of(o, v, "channels")[0]["enabled"] is False,
         {"enabled": False}, a_channel),
    Case("DELETE /workspaces/:id/channels/:channel_id", lambda o, v: of(o, v, "channels") == [], arrange=a_channel),
    Case("POST /workspaces/:id/memory", lambda o, v: [one["value"] for one in of(o, v, "memory")] == [{"a": 1}],
         {"key": "k", "value": {"a": 1}}),
    Case("POST /workspaces/:id/memories", lambda o, v: memories(o, v) == ["new"], {"content": "new", "scope": "LOCAL"}),
    Case("PATCH /workspaces/:id/memories/:memory_id", lambda o, v: memories(o, v) == ["new"], {"content": "new"},
         arrange=a_memory),
    Case("DELETE /workspaces/:id/memories/:memory_id", lambda o, v: memories(o, v) == [], arrange=a_memory),
    Case("DELETE /workspaces/:id/memory/:key", lambda o, v: of(o, v, "memory") == [],
         arrange=lambda o, v: put("/workspaces/:id/memory", {"key": "k", "value": 1}, "POST")(o, v) | {"key": "k"}),
    Case("PUT /orgs/:org_id/plugins/allowlist",
         lambda o, v: [one["plugin_name"] for one in o.get(f"/orgs/{v['id']}/plugins/allowlist")["plugins"]] == ["truth"],
         {"plugins": ["truth"], "enabled_by": "truth"}, lambda o, v: {"org_id": v["id"]}),
    Case("PUT /canvas/viewport", lambda o, v: o.get("/canvas/viewport")["zoom"] == 2, {"x": 3, "y": 4, "zoom": 2}),
]  # fmt: skip


def ack(operator: Operator, values: Values, seq: int) -> int:
    """What the server knows as read; giving a lower number changes nothing."""
    body = json.dumps({"acked_seq": seq}).encode()
    headers = {"Authorization": f"Bearer {values['token']}"}
    answer = ask(f"{operator.url}/workspaces/{values['id']}/activity/ack", body=body, headers=headers)
    return int(answer.json()["last_acked_seq"])


def test_every_mutating_route_has_its_case():
    mutating = {str(route) for route in routes() if route.method != "GET"}
    assert {case.route for case in CASES} | set(ELSEWHERE) == mutating


@pytest.fixture
def values(operator: Operator) -> Values:
    """A workspace of this test's own: external, with its token."""
    made = operator.post("/workspaces", {"name": f"truth {uuid4().hex[:8]}", "runtime": "external"})
    return {"id": made["id"], "token": made["connection"]["auth_token"]}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_was_answered_is_there(case: Case, operator: Operator, values: Values):
    values |= case.arrange(operator, values)
    token = values["token"] if case.as_agent else operator.token
    headers = {"Authorization": f"Bearer {token}"}
    url = operator.url + case.path(values)
    answer = ask(url, body=case.data(values), headers=headers, method=case.method)
    assert 200 <= answer.status < 300, answer
    assert isinstance(answer.json(), dict)
    is_promise = answer.json().get("status") == "provisioning"  # a start is a row with a deadline
    eventually(lambda: case.holds(operator, values), 30 if is_promise else 0.5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_client_that_hangs_up_gets_the_same_effect(case: Case, operator: Operator, values: Values):
    values |= case.arrange(operator, values)
    hang_up(operator, case, values)
    eventually(lambda: case.holds(operator, values), 30)


def hang_up(operator: Operator, case: Case, values: Values) -> None:
    """Send the whole request and close the connection without reading a byte of the answer."""
    data = case.data(values)
    token = values["token"] if case.as_agent else operator.token
    head = (
        f"{case.method} {case.path(values)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("localhost", urlsplit(operator.url).port or 80), timeout=5) as connection:
        connection.sendall(head.encode() + data)
