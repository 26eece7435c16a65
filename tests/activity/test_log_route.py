"""`POST /workspaces/:id/activity`."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from activity.events import Frame
from activity.models import ActivityLog
from activity.serializers import AGENT_TYPES
from tests.clients import Api, admin, agent_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory()


@pytest.fixture
def agent(workspace: Workspace) -> Api:
    return agent_of(workspace.pk)


def log(caller: Api, workspace: Workspace, body: Any) -> tuple[int, Any]:
    answer = caller.post(f"/workspaces/{workspace.pk}/activity", body)
    return answer.status_code, answer.json()


@pytest.mark.django_db(transaction=True)
def test_each_type_of_an_agent_is_logged_and_announced_once(valkey: Any, published: list[Frame]) -> None:
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    for kind in AGENT_TYPES:
        assert log(agent, workspace, {"activity_type": kind}) == (200, {"status": "logged"})
    assert [frame.payload["activity_type"] for frame in published] == AGENT_TYPES
    assert {frame.event for frame in published} == {"ACTIVITY_LOGGED"}


def test_every_field_is_stored(workspace: Workspace, agent: Api) -> None:
    target = uuid4()
    body = {
        "activity_type": "a2a_send",
        "method": "message/send",
        "summary": " s ",
        "target_id": str(target),
        "source_id": str(workspace.pk).upper(),
        "status": "error",
        "error_detail": "d",
        "duration_ms": 7,
        "request_body": [1],
        "response_body": "r",
        "metadata": {"unused": True},
        "unknown": "key",
    }
    assert log(agent, workspace, body)[0] == 200
    row = ActivityLog.objects.get()
    assert (row.source_id, row.target_id, row.method, row.summary) == (
        workspace.pk,
        target,
        "message/send",
        " s ",
    )
    assert (row.status, row.error_detail, row.duration_ms) == ("error", "d", 7)
    assert (row.request_body, row.response_body) == ([1], "r")


def test_metadata_stands_in_for_an_absent_request_body(workspace: Workspace, agent: Api) -> None:
    log(agent, workspace, {"activity_type": "agent_log", "metadata": {"step": 1}})
    assert ActivityLog.objects.get().request_body == {"step": 1}


@pytest.mark.parametrize("empty", ["", None])
def test_empty_texts_are_null_and_the_source_is_the_workspace(
    workspace: Workspace, agent: Api, empty: Any
) -> None:
    names = ("method", "summary", "target_id", "source_id", "status", "error_detail")
    assert log(agent, workspace, {"activity_type": "error", **dict.fromkeys(names, empty)})[0] == 200
    row = ActivityLog.objects.get()
    assert (row.method, row.summary, row.target_id, row.error_detail) == (None,) * 4
    assert (row.source_id, row.status) == (workspace.pk, "ok")


def test_another_source_is_refused_and_written_down(workspace: Workspace, agent: Api, caplog: Any) -> None:
    body = {"activity_type": "agent_log", "source_id": "evil\n2026 level=info"}
    assert log(agent, workspace, body) == (403, {"error": "source_id must match authenticated workspace"})
    assert not ActivityLog.objects.exists()
    (written,) = [one.msg for one in caplog.records if "activity.foreign_source" in str(one.msg)]
    assert written["claimed"] == r"'evil\n2026 level=info'"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "activity_type is required"),
        ({"activity_type": None}, "activity_type is required"),
        ({"activity_type": "dance"}, f"invalid activity_type, must be one of: {', '.join(AGENT_TYPES)}"),
        ({"activity_type": "error", "target_id": "global"}, "target_id must be a UUID"),
        ([], "invalid request body"),
        ("text", "invalid request body"),
    ],
)
def test_a_wrong_body_is_a_400(workspace: Workspace, agent: Api, body: Any, text: str) -> None:
    assert log(agent, workspace, body) == (400, {"error": text})


def test_malformed_json_is_a_400(workspace: Workspace, agent: Api) -> None:
    answer = agent._client.generic("POST", f"/workspaces/{workspace.pk}/activity", b"{")
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


def test_what_cannot_be_stored_is_replaced_not_refused(workspace: Workspace, agent: Api) -> None:
    raw = rb'{"activity_type":"agent_log","summary":"a\u0000b\ud83d","request_body":{"x":"\udc00\u0000"}}'
    answer = agent._client.generic("POST", f"/workspaces/{workspace.pk}/activity", raw)
    assert answer.status_code == 200
    row = ActivityLog.objects.get()
    assert row.summary == "a\ufffdb\ufffd"
    assert row.request_body == {"x": "\ufffd\ufffd"}


def test_a_removed_or_unknown_workspace_is_a_404(workspace: Workspace) -> None:
    Workspace.objects.filter(pk=workspace.pk).update(status=Status.REMOVED)
    body = {"activity_type": "agent_log"}
    assert log(admin(), workspace, body) == (404, {"error": "workspace not found"})
    assert admin().post(f"/workspaces/{uuid4()}/activity", body).status_code == 404
