"""The MCP bridge: the methods, the tools, what a waiting agent is told and when."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from activity.models import ActivityLog
from delegations import mcp_views
from delegations.models import Delegation
from delegations.services import sweep
from memory.tools import TOOLS as MEMORY_TOOLS
from tests.a2a.fake_agent import answers, waits
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import ADMIN_TOKEN, at_once
from tests.delegations.factories import fresh, inbox, pair, told
from tests.waiting import eventually
from workspaces.models import DeliveryMode, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def rpc(api: Api, workspace: Workspace, method: str, params: Any = None) -> Any:
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    return api.post(f"/workspaces/{workspace.pk}/mcp", body)


def use(workspace: Workspace, name: str, **arguments: Any) -> Any:
    params = {"name": name, "arguments": arguments}
    answer = rpc(agent_of(workspace.pk), workspace, "tools/call", params).json()
    return answer["error"] if "error" in answer else answer["result"]["content"][0]["text"]


@pytest.fixture
def working(doorbell) -> Any:
    """A worker that works off what is rung for while a test waits on the line."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            doorbell.work()

    thread = threading.Thread(target=lambda: at_once(run))
    thread.start()
    yield
    over.set()
    thread.join(20)


def test_the_methods(doorbell):
    one, _ = pair()
    api = agent_of(one.pk)
    assert rpc(api, one, "initialize").json() == {
        "jsonrpc": "2.0",
        "id": 7,
        "result": {
            "protocolVersion": "2024-11-05",
            "capabilities": {"tools": {"listChanged": False}},
            "serverInfo": {"name": "molecule-a2a", "version": "1.0.0"},
        },
    }
    assert rpc(api, one, "notifications/initialized").json() == {"jsonrpc": "2.0", "id": None}
    assert rpc(api, one, "ping").json()["result"] == {}
    unknown = rpc(api, one, "resources/secret")
    assert (unknown.status_code, unknown.json()["error"]) == (
        200,
        {"code": -32601, "message": "method not found"},
    )
    listed = rpc(api, one, "tools/list").json()["result"]["tools"]
    assert {tool["name"] for tool in listed} == {
        "list_peers", "get_workspace_info", "delegate_task", "delegate_task_async", "check_task_status",
        "send_message_to_user", *MEMORY_TOOLS,
    }  # fmt: skip
    assert all(tool["description"] and tool["inputSchema"]["type"] == "object" for tool in listed)
    client = Client(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}")
    broken = client.post(f"/workspaces/{one.pk}/mcp", b"{half", content_type="application/json")
    assert (broken.status_code, broken.json()["error"]) == (400, {"code": -32700, "message": "parse error"})
    assert anonymous().post(f"/workspaces/{one.pk}/mcp", {}).status_code == 401
    assert admin().post(f"/workspaces/{uuid4()}/mcp", {"method": "ping"}).status_code == 404


def test_too_many_calls_are_refused(monkeypatch, doorbell):
    one, _ = pair()
    api = agent_of(one.pk)
    assert (mcp_views.LIMIT.most, mcp_views.LIMIT.seconds) == (120, 60)
    monkeypatch.setattr(mcp_views, "LIMIT", replace(mcp_views.LIMIT, most=3))
    for _ in range(3):
        assert rpc(api, one, "ping").status_code == 200
    refused = rpc(api, one, "ping")
    assert (refused.status_code, refused.json()["error"]) == (429, "MCP rate limit exceeded")
    assert int(refused.headers["Retry-After"]) >= 1


def test_peers_and_oneself(doorbell):
    one, other = pair()
    shown = json.loads(use(one, "list_peers"))
    assert {entry["id"] for entry in shown} == {str(other.pk), str(one.parent_id)}
    assert set(shown[0]) == {"id", "name", "role", "status", "tier"}
    info = json.loads(use(one, "get_workspace_info"))
    assert (info["id"], info["parent_id"], info["role"]) == (str(one.pk), str(one.parent_id), "")


def test_an_answer_comes_inline_and_nothing_to_the_inbox(agent, working):
    caller, callee = pair(**agent.place)
    assert use(caller, "delegate_task", workspace_id=str(callee.pk), task="count") == "echo: count"
    row = Delegation.objects.get()
    assert (row.status, row.source, row.notified_at is not None) == ("completed", "mcp_sync", True)
    assert inbox(caller.pk).count() == 0
    assert told(caller.pk) == ["SENT", "STATUS:dispatched", "COMPLETE"]
    assert sweep(row.updated_at, up_since=row.updated_at)["told"] == 0


@pytest.mark.parametrize("tool", ["delegate_task", "delegate_task_async"])
def test_files_go_along_with_a_task(agent, doorbell, working, tool):
    caller, callee = pair(**agent.place)
    good = {"uri": "workspace:/workspace/beans.csv", "name": "beans.csv", "mimeType": "text/csv", "size": 12}
    use(caller, tool, workspace_id=str(callee.pk), task="count", attachments=[good])
    eventually(lambda: agent.requests)
    assert agent.requests[0].message["parts"] == [
        {"kind": "text", "text": "count"}, {"kind": "file", "file": good},
    ]  # fmt: skip
    for bad in ("x", [{"name": "n"}], [{"uri": "javascript:x", "name": "n"}]):
        refused = use(caller, tool, workspace_id=str(callee.pk), task="count", attachments=bad)
        assert refused["code"] == -32000
    assert Delegation.objects.count() == 1


def test_an_error_comes_inline_too(agent, working):
    agent.behaves(answers({"jsonrpc": "2.0", "error": {"code": 1, "message": "no beans"}}))
    caller, callee = pair(**agent.place)
    error = use(caller, "delegate_task", workspace_id=str(callee.pk), task="count")
    assert error == {"code": -32000, "message": "A2A delegation failed: no beans"}
    assert inbox(caller.pk).count() == 0


def test_a_slow_agent_is_a_task_to_ask_about_and_its_result_comes_to_the_inbox(agent, working, monkeypatch):
    monkeypatch.setattr(mcp_views, "WAIT_S", 0.5)
    agent.behaves(waits())
    caller, callee = pair(**agent.place)
    shown = json.loads(use(caller, "delegate_task", workspace_id=str(callee.pk), task="count"))
    assert (shown["status"], shown["target_id"]) == ("dispatched", str(callee.pk))
    status = {"workspace_id": str(callee.pk), "task_id": shown["task_id"]}
    assert json.loads(use(caller, "check_task_status", **status))["status"] == "dispatched"
    agent.released.set()
    eventually(lambda: inbox(caller.pk).count() == 1)
    done = json.loads(use(caller, "check_task_status", **status))
    assert (done["status"], done["result"]) == ("completed", "echo: count")


def test_a_polling_target_is_told_of_at_once_and_never_called(agent, working):
    caller, callee = pair(**agent.place, delivery_mode=DeliveryMode.POLL)
    shown = json.loads(use(caller, "delegate_task", workspace_id=str(callee.pk), task="count"))
    assert (shown["status"], agent.requests) == ("queued", [])
    path = f"/workspaces/{callee.pk}/delegations/{shown['task_id']}/update"
    agent_of(callee.pk).post(path, {"status": "completed", "response_preview": "42"})
    assert inbox(caller.pk).count() == 1


def test_asynchronously_the_outcome_always_reaches_the_inbox(agent, doorbell):
    caller, callee = pair(**agent.place)
    shown = json.loads(use(caller, "delegate_task_async", workspace_id=str(callee.pk), task="count"))
    assert (shown["status"], shown["target_id"]) == ("dispatched", str(callee.pk))
    doorbell.work()
    row = Delegation.objects.get()
    assert (row.source, row.status, inbox(caller.pk).count()) == ("mcp_async", "completed", 1)
    foreign, _ = pair()
    status = {"workspace_id": str(callee.pk), "task_id": shown["task_id"]}
    assert json.loads(use(foreign, "check_task_status", **status)) == {
        "task_id": shown["task_id"],
        "status": "not_found",
        "note": "task not tracked or not yet dispatched",
    }
    assert fresh(row).pk == shown["task_id"]


def test_the_texts_of_what_is_missing(doorbell):
    one, other = pair()
    stranger, _ = pair()
    cases = [
        ("delegate_task", {"task": "x"}, "workspace_id is required"),
        ("delegate_task", {"workspace_id": str(other.pk)}, "task is required"),
        ("delegate_task", {"workspace_id": str(uuid4()), "task": "x"}, "workspace not found"),
        ("delegate_task", {"workspace_id": str(one.pk), "task": "x"}, "self-delegation not permitted"),
        (
            "delegate_task_async",
            {"workspace_id": str(stranger.pk), "task": "x"},
            f"workspace {one.pk} is not authorised to communicate with {stranger.pk}",
        ),
        ("check_task_status", {"workspace_id": str(other.pk)}, "task_id is required"),
        ("send_message_to_user", {}, "message is required"),
    ]
    for name, arguments, text in cases:
        assert use(one, name, **arguments) == {"code": -32000, "message": text}
    assert use(one, "no_such_tool")["code"] == -32602
    assert not Delegation.objects.exists()


def test_a_message_to_the_user_is_what_notify_writes(doorbell, published, settings: Any):
    one, _ = pair()
    agent_of(one.pk).post(f"/workspaces/{one.pk}/notify", {"message": "hello"})
    assert use(one, "send_message_to_user", message="hello") == "Message sent."
    first, second = ActivityLog.objects.order_by("seq")
    for key in ("activity_type", "method", "source_id", "summary", "response_body", "status"):
        assert getattr(first, key) == getattr(second, key)
    assert [one.event for one in published] == ["AGENT_MESSAGE"] * 2
    settings.MOLECULE_MCP_ALLOW_SEND_MESSAGE = False
    assert use(one, "send_message_to_user", message="hello")["code"] == -32602
    listed = rpc(agent_of(one.pk), one, "tools/list").json()["result"]["tools"]
    assert "send_message_to_user" not in {tool["name"] for tool in listed}


def test_the_unforeseen_is_not_shown(doorbell, monkeypatch):
    one, other = pair()
    monkeypatch.setattr("delegations.tools.delegate", lambda task: 1 / 0)
    error = use(one, "delegate_task_async", workspace_id=str(other.pk), task="x")
    assert error == {"code": -32000, "message": "tool call failed"}
