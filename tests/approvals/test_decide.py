"""A person decides, once; the agent that waits is told."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from access.services.org_tokens import Caller, mint_org_token
from activity.events import Frame
from activity.models import StructureEvent
from approvals.models import STATES, Approval, Status
from tests.approvals.factories import ApprovalFactory
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def approval(valkey: Any) -> Approval:
    return ApprovalFactory()


def call(caller: Api, approval: Approval, verb: str, body: Any = None) -> tuple[int, Any]:
    answer = caller.post(f"/workspaces/{approval.workspace_id}/approvals/{approval.pk}/{verb}", body)
    return answer.status_code, answer.json()


def requester(approval: Approval) -> Api:
    return agent_of(approval.workspace_id)


@pytest.mark.parametrize("decision", ["approved", "denied"])
def test_a_decision_is_stored_and_told(approval: Approval, published: list[Frame], decision: str) -> None:
    body = {"decision": decision, "decided_by": "ada"}
    assert call(admin(), approval, "decide", body) == (
        200,
        {"status": decision, "approval_id": str(approval.pk)},
    )
    approval.refresh_from_db()
    assert (approval.status, approval.decided_by, approval.decided_actor) == (decision, "ada", "admin-token")
    assert approval.decided_at is not None
    (shown,) = requester(approval).get(f"/workspaces/{approval.workspace_id}/approvals").json()
    assert (shown["status"], shown["decided_by"]) == (decision, "ada")

    told = {"approval_id": str(approval.pk), "decided_by": "ada"}
    assert [(frame.event, frame.workspace_id, frame.payload) for frame in published] == [
        (f"APPROVAL_{decision.upper()}", approval.workspace_id, {**told, "decision": decision}),
        ("APPROVAL_DECIDED", approval.workspace_id, {**told, "status": decision}),
    ]
    assert StructureEvent.objects.count() == 1


def test_the_waiting_runtime_reads_the_decision_beside_the_payload(
    approval: Approval, published: list[Frame]
) -> None:
    call(admin(), approval, "decide", {"decision": "approved"})
    frame = json.loads(published[-1].encoded())
    keys = {"approval_id": str(approval.pk), "status": "approved", "decided_by": "human"}
    assert set(frame) == {"event", "workspace_id", "timestamp", "payload", *keys}
    assert {key: frame[key] for key in keys} == frame["payload"] == keys


@pytest.mark.parametrize("decided_by", [None, ""])
def test_a_nameless_person_is_a_human(approval: Approval, decided_by: str | None) -> None:
    call(admin(), approval, "decide", {"decision": "denied", "decided_by": decided_by})
    approval.refresh_from_db()
    assert approval.decided_by == "human"


@pytest.mark.parametrize("body", [{}, {"decision": "maybe"}, {"decision": None}, {"decision": "pending"}])
def test_anything_else_is_no_decision(approval: Approval, published: list[Frame], body: Any) -> None:
    expected = (400, {"error": "decision must be 'approved' or 'denied'"})
    assert call(admin(), approval, "decide", body) == expected
    approval.refresh_from_db()
    assert approval.status == "pending"
    assert published == []


def test_a_second_decision_finds_nothing_to_decide(approval: Approval, published: list[Frame]) -> None:
    call(admin(), approval, "decide", {"decision": "approved"})
    published.clear()
    expected = (404, {"error": "approval not found or already decided"})
    assert call(admin(), approval, "decide", {"decision": "denied"}) == expected
    assert published == []
    approval.refresh_from_db()
    assert approval.status == "approved"


def test_an_unknown_or_foreign_question_is_not_found(approval: Approval) -> None:
    expected = (404, {"error": "approval not found or already decided"})
    unknown = ApprovalFactory.build(workspace=approval.workspace)
    foreign = Approval(pk=approval.pk, workspace=WorkspaceFactory())
    for one in (unknown, foreign):
        assert call(admin(), one, "decide", {"decision": "approved"}) == expected
    path = f"/workspaces/{approval.workspace_id}/approvals/not-a-uuid/decide"
    answer = admin().post(path, {"decision": "approved"})
    assert (answer.status_code, answer.json()) == expected


def test_of_simultaneous_decisions_one_wins(approval: Approval) -> None:
    outcomes = at_once(
        *[lambda: call(admin(), approval, "decide", {"decision": "approved"})] * 4,
        *[lambda: call(admin(), approval, "decide", {"decision": "denied"})] * 4,
    )
    assert sorted(status for status, _ in outcomes) == [200] + [404] * 7
    assert StructureEvent.objects.count() == 1


# --- Who may


def test_a_workspace_decides_nothing_least_of_all_its_own(approval: Approval) -> None:
    expected = (403, {"error": "a workspace cannot decide its own approval"})
    for caller in (requester(approval), agent_of(WorkspaceFactory().pk)):
        assert call(caller, approval, "decide", {"decision": "approved"}) == expected
    assert call(anonymous(), approval, "decide", {"decision": "approved"})[0] == 401
    assert call(Api("junk"), approval, "decide", {"decision": "approved"})[0] == 401
    approval.refresh_from_db()
    assert approval.status == "pending"


def test_even_inside_the_hatch_the_requester_does_not_decide(approval: Approval, settings: Any) -> None:
    settings.ADMIN_TOKEN, settings.MOLECULE_DEV_OPEN, settings.MOLECULE_ENV = "", True, "development"
    assert call(requester(approval), approval, "decide", {"decision": "approved"})[0] == 403
    assert call(anonymous(), approval, "decide", {"decision": "approved"})[0] == 200
    approval.refresh_from_db()
    assert approval.decided_actor == "dev-open"


@pytest.mark.parametrize("verb", ["approve", "deny", "decide"])
def test_a_link_never_decides(approval: Approval, verb: str) -> None:
    answer = admin().get(f"/workspaces/{approval.workspace_id}/approvals/{approval.pk}/{verb}")
    assert answer.status_code in {404, 405}
    approval.refresh_from_db()
    assert approval.status == "pending"


# --- Taking back


def test_the_asker_takes_its_question_back(approval: Approval, published: list[Frame]) -> None:
    expected = (200, {"status": "withdrawn", "approval_id": str(approval.pk)})
    assert call(requester(approval), approval, "withdraw") == expected
    approval.refresh_from_db()
    assert (approval.status, approval.decided_by) == ("withdrawn", "requester")
    (frame,) = published
    assert (frame.event, frame.payload) == (
        "APPROVAL_WITHDRAWN",
        {"approval_id": str(approval.pk), "decided_by": "requester"},
    )
    assert call(admin(), approval, "decide", {"decision": "approved"})[0] == 404


def test_what_is_decided_is_not_taken_back(approval: Approval, published: list[Frame]) -> None:
    call(admin(), approval, "decide", {"decision": "denied"})
    published.clear()
    expected = (409, {"error": "approval not pending", "status": "denied"})
    assert call(requester(approval), approval, "withdraw") == expected
    assert published == []


def test_only_the_asker_takes_back(approval: Approval) -> None:
    for caller in (admin(), anonymous(), agent_of(WorkspaceFactory().pk)):
        assert call(caller, approval, "withdraw")[0] == 401
    own = requester(approval)
    for unknown in (uuid4(), "not-a-uuid"):
        answer = own.post(f"/workspaces/{approval.workspace_id}/approvals/{unknown}/withdraw")
        assert (answer.status_code, answer.json()) == (404, {"error": "approval not found"})


# --- The table of states


def test_every_move_leaves_pending() -> None:
    assert set(STATES.sources) == set(Status) - {Status.PENDING, Status.ESCALATED}
    assert all(sources == {Status.PENDING} for sources in STATES.sources.values())


def test_a_token_bound_to_an_org_decides_in_that_org_only(valkey: Any):
    theirs, other = WorkspaceFactory(), WorkspaceFactory()
    bound = Api(mint_org_token(caller=Caller(actor="test", org_id=theirs.pk)).plaintext)
    for row, status in ((theirs, 200), (other, 403)):
        asked = admin().post(f"/workspaces/{row.pk}/approvals", {"action": "deploy"}).json()["approval_id"]
        path = f"/workspaces/{row.pk}/approvals/{asked}/decide"
        assert bound.post(path, {"decision": "denied"}).status_code == status
