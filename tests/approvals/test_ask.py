"""An agent asks: the row, who is told, who may read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from activity.events import Frame
from activity.models import StructureEvent
from approvals.models import Approval, Status
from tests.approvals.factories import ApprovalFactory
from tests.clients import Api, admin, agent_of, anonymous
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def workspace(valkey: Any) -> Workspace:
    return WorkspaceFactory(name="Ada", parent=WorkspaceFactory())


@pytest.fixture
def agent(workspace: Workspace) -> Api:
    return agent_of(workspace.pk)


def ask(caller: Api, workspace: Workspace, body: Any) -> tuple[int, Any]:
    answer = caller.post(f"/workspaces/{workspace.pk}/approvals", body)
    return answer.status_code, answer.json()


def test_a_question_is_pending_and_told_to_the_workspace_and_its_parent(
    workspace: Workspace, agent: Api, published: list[Frame]
) -> None:
    body = {"action": "deploy", "reason": "it is friday", "task_id": "t-1", "context": {"env": "prod"}}
    status, answer = ask(agent, workspace, {**body, "ignored": 1})
    row = Approval.objects.get()
    assert (status, answer) == (201, {"approval_id": str(row.pk), "status": "pending"})
    assert (row.action, row.reason, row.task_id, row.context) == tuple(body.values())
    assert (row.decided_by, row.decided_at, row.decided_actor) == (None, None, None)

    told = {"approval_id": str(row.pk), "action": "deploy", "reason": "it is friday"}
    assert [(frame.event, frame.workspace_id, frame.payload) for frame in published] == [
        ("APPROVAL_REQUESTED", workspace.pk, {**told, "task_id": "t-1"}),
        ("APPROVAL_ESCALATED", workspace.parent_id, {**told, "from_workspace_id": str(workspace.pk)}),
    ]
    assert StructureEvent.objects.count() == 2


def test_a_root_has_nobody_to_escalate_to(valkey: Any, published: list[Frame]) -> None:
    root = WorkspaceFactory()
    assert ask(agent_of(root.pk), root, {"action": "deploy"})[0] == 201
    assert [frame.event for frame in published] == ["APPROVAL_REQUESTED"]


def test_what_was_not_said_is_null_or_empty(workspace: Workspace, agent: Api) -> None:
    ask(agent, workspace, {"action": "deploy", "reason": "", "task_id": None, "context": None})
    row = Approval.objects.get()
    assert (row.reason, row.task_id, row.context) == (None, None, {})


def test_what_the_database_cannot_store_is_replaced(workspace: Workspace, agent: Api) -> None:
    raw = rb'{"action":"a\ud83d","reason":"b\u0000","context":{"k":"\u0000"}}'
    path = f"/workspaces/{workspace.pk}/approvals"
    assert agent._client.generic("POST", path, raw, content_type="application/json").status_code in {201, 400}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "action is required"),
        ({"action": ""}, "action is required"),
        ({"action": "  "}, "action is required"),
        ({"action": None}, "action is required"),
        ({"action": ["deploy"]}, "action is required"),
        ([], "invalid request body"),
        ({"action": "deploy", "context": "x"}, "context must be an object"),
        ({"action": "deploy", "context": [1]}, "context must be an object"),
    ],
)
def test_a_question_that_asks_nothing_is_refused(
    workspace: Workspace, agent: Api, published: list[Frame], body: Any, text: str
) -> None:
    assert ask(agent, workspace, body) == (400, {"error": text})
    assert published == []
    assert not Approval.objects.exists()


def test_only_its_own_token_or_an_operator_may_ask_for_a_workspace(workspace: Workspace) -> None:
    assert ask(anonymous(), workspace, {"action": "x"})[0] == 401
    assert ask(agent_of(WorkspaceFactory().pk), workspace, {"action": "x"})[0] == 401
    assert ask(admin(), workspace, {"action": "x"})[0] == 201
    assert admin().post(f"/workspaces/{uuid4()}/approvals", {"action": "x"}).status_code == 404
    assert admin().post("/workspaces/global/approvals", {"action": "x"}).status_code == 400


# --- Reading


def test_a_workspace_reads_its_own_questions_newest_first(workspace: Workspace, agent: Api) -> None:
    for number in range(51):
        ApprovalFactory(workspace=workspace, action=str(number))
    ApprovalFactory(action="another's")
    rows = agent.get(f"/workspaces/{workspace.pk}/approvals").json()
    assert [row["action"] for row in rows] == [str(number) for number in range(50, 0, -1)]
    assert list(rows[0]) == [
        "id",
        "task_id",
        "action",
        "reason",
        "status",
        "decided_by",
        "decided_at",
        "created_at",
    ]
    assert rows[0]["created_at"].endswith("Z")
    assert agent_of(WorkspaceFactory().pk).get(f"/workspaces/{workspace.pk}/approvals").status_code == 401


def test_the_pending_ones_of_all_workspaces_are_an_operators(workspace: Workspace) -> None:
    pending = ApprovalFactory(workspace=workspace, reason=None)
    ApprovalFactory(status=Status.DENIED, decided_by="x", decided_at=timezone.now())
    ApprovalFactory(workspace=WorkspaceFactory(status="removed"))
    (row,) = admin().get("/approvals/pending").json()
    assert row == {
        "id": str(pending.pk),
        "workspace_id": str(workspace.pk),
        "workspace_name": "Ada",
        "action": "deploy to production",
        "reason": None,
        "status": "pending",
        "created_at": row["created_at"],
    }
    assert anonymous().get("/approvals/pending").status_code == 401
    assert agent_of(workspace.pk).get("/approvals/pending").status_code == 401


def test_no_questions_are_an_empty_array(workspace: Workspace, agent: Api) -> None:
    assert admin().get("/approvals/pending").content == b"[]"
    assert agent.get(f"/workspaces/{workspace.pk}/approvals").content == b"[]"


def test_reading_changes_nothing_however_old_a_question_is(workspace: Workspace, agent: Api) -> None:
    row = ApprovalFactory(workspace=workspace, created_at=timezone.now() - timedelta(hours=1))
    before = Approval.objects.values().get()
    for _ in range(2):
        assert [one["id"] for one in admin().get("/approvals/pending").json()] == [str(row.pk)]
        agent.get(f"/workspaces/{workspace.pk}/approvals")
    assert Approval.objects.values().get() == before


@pytest.mark.parametrize("count", [1, 30])
def test_the_pending_list_is_one_query_whatever_its_length(
    workspace: Workspace, django_assert_num_queries: Any, count: int
) -> None:
    for _ in range(count):
        ApprovalFactory()
    with django_assert_num_queries(1):
        assert len(admin().get("/approvals/pending").json()) == count
