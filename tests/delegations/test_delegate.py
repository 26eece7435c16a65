"""POST /workspaces/:id/delegate: what is accepted, what a repeat gets, what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from config.jobs import Job
from delegations.models import Delegation, Status
from delegations.services import Change, transition
from tests.clients import Api, admin, agent_of
from tests.conftest import at_once
from tests.delegations.factories import feed, fresh, inbox, pair, told
from tests.outages import database_away
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status as WorkspaceStatus
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


def ask(api: Api, caller: Workspace, target: Any, task: Any = "count the beans", **more: Any) -> Any:
    body = {"target_id": str(getattr(target, "pk", target)), "task": task, **more}
    return api.post(f"/workspaces/{caller.pk}/delegate", body)


def test_an_accepted_delegation_is_written_told_and_begun(doorbell, django_capture_on_commit_callbacks):
    caller, callee = pair()
    with django_capture_on_commit_callbacks(execute=True):
        answer = ask(agent_of(caller.pk), caller, callee, "x" * 150)
    row = Delegation.objects.get()
    assert answer.status_code == 202
    assert answer.json() == {"delegation_id": row.pk, "status": "delegated", "target_id": str(callee.pk)}
    assert (row.status, row.source, row.caller_id, row.callee_id) == ("queued", "api", caller.pk, callee.pk)
    assert timedelta(hours=5, minutes=59) < row.deadline - timezone.now() <= timedelta(hours=6)
    line = feed(caller.pk, "delegate").get()
    assert (line.status, line.summary) == ("pending", f"Delegating to {callee.name}")
    assert line.request_body == {"task": "x" * 150, "delegation_id": row.pk}
    assert told(caller.pk) == ["SENT"]
    assert doorbell.rung == [(Job.DELEGATE, {"delegation_id": row.pk})]


def test_the_event_shows_the_beginning_of_the_task(published, doorbell, django_capture_on_commit_callbacks):
    caller, callee = pair()
    with django_capture_on_commit_callbacks(execute=True):
        ask(admin(), caller, callee, "x" * 150)
    (frame,) = [one for one in published if one.event == "DELEGATION_SENT"]
    assert frame.payload["task_preview"] == "x" * 97 + "..."
    assert frame.payload["target_id"] == str(callee.pk)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"task": "x"}, 400, "invalid delegation request"),
        ({"target_id": "TARGET"}, 400, "invalid delegation request"),
        ({"target_id": "TARGET", "task": ""}, 400, "invalid delegation request"),
        ({"target_id": "TARGET", "task": "x" * (1024 * 1024 + 1)}, 400, "invalid delegation request"),
        (
            {"target_id": "TARGET", "task": "x", "idempotency_key": "k" * 256},
            400,
            "invalid delegation request",
        ),
        ({"target_id": "TARGET", "task": "x", "deadline_seconds": 59}, 400, "invalid delegation request"),
        ({"target_id": "TARGET", "task": "x", "deadline_seconds": 86401}, 400, "invalid delegation request"),
        ({"target_id": "junk", "task": "x"}, 400, "target_id must be a valid UUID"),
        ({"target_id": "SELF", "task": "x"}, 400, "self-delegation not permitted"),
        ({"target_id": "NOBODY", "task": "x"}, 404, "target workspace not found"),
        ({"target_id": "REMOVED", "task": "x"}, 404, "target workspace not found"),
        (
            {"target_id": "STRANGER", "task": "x"},
            403,
            "access denied: workspaces cannot communicate per hierarchy rules",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_row(body: dict[str, Any], status: int, error: str):
    caller, callee = pair()
    places = {
        "TARGET": callee.pk,
        "SELF": caller.pk,
        "NOBODY": uuid4(),
        "REMOVED": WorkspaceFactory(parent_id=caller.parent_id, status=WorkspaceStatus.REMOVED).pk,
        "STRANGER": pair()[0].pk,
    }
    if "target_id" in body:
        body = {**body, "target_id": str(places.get(body["target_id"], body["target_id"]))}
    answer = agent_of(caller.pk).post(f"/workspaces/{caller.pk}/delegate", body)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert not Delegation.objects.exists()
    assert not feed(caller.pk, "delegate").exists()
    if "SELF" in str(error) or error.startswith("self"):
        assert "never" in answer.json()["hint"]


def test_a_task_of_one_mebibyte_and_a_deadline_are_taken(doorbell):
    caller, callee = pair()
    assert ask(admin(), caller, callee, "x" * 1024 * 1024, deadline_seconds=60).status_code == 202
    row = Delegation.objects.get()
    assert len(row.task_preview) == 4096
    assert row.deadline - timezone.now() < timedelta(seconds=61)


def test_the_bearer_is_the_delegators():
    caller, callee = pair()
    assert ask(agent_of(callee.pk), caller, callee).status_code == 401


def test_a_repeat_with_the_same_key_is_the_same_delegation(doorbell):
    caller, callee = pair()
    api = agent_of(caller.pk)
    first, second = (ask(api, caller, callee, idempotency_key="k") for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    row = Delegation.objects.get()
    assert second.json() == {
        "delegation_id": row.pk,
        "status": "pending",
        "target_id": str(callee.pk),
        "idempotent_hit": True,
    }
    transition(row.pk, Change(Status.COMPLETED, text="done"))
    assert ask(api, caller, callee, idempotency_key="k").json()["status"] == "completed"
    assert told(caller.pk) == ["SENT", "COMPLETE"]


def test_the_key_of_another_delegator_and_of_another_target():
    caller, callee = pair()
    third = WorkspaceFactory(parent_id=caller.parent_id)
    first = ask(admin(), caller, callee, idempotency_key="k").json()
    assert "idempotent_hit" not in ask(admin(), callee, caller, idempotency_key="k").json()
    other = ask(admin(), caller, third, idempotency_key="k")
    assert (other.status_code, other.json()) == (
        409,
        {"error": "idempotency_key already used for another target", "delegation_id": first["delegation_id"]},
    )


def test_after_a_failure_the_key_is_free_and_the_failed_one_is_still_there():
    caller, callee = pair()
    first = ask(admin(), caller, callee, idempotency_key="k").json()["delegation_id"]
    transition(first, Change(Status.FAILED, error="no"))
    second = ask(admin(), caller, callee, idempotency_key="k")
    assert second.status_code == 202
    assert second.json()["delegation_id"] != first
    listed = admin().get(f"/workspaces/{caller.pk}/delegations").json()
    assert {one["delegation_id"]: one["status"] for one in listed} == {
        first: "failed",
        second.json()["delegation_id"]: "pending",
    }
    assert ask(admin(), caller, callee, idempotency_key="k").json()["idempotent_hit"] is True


def test_a_completed_one_answers_for_its_key_within_the_window_only(settings: Any):
    caller, callee = pair()
    first = ask(admin(), caller, callee, idempotency_key="k").json()["delegation_id"]
    transition(first, Change(Status.COMPLETED, text="of yesterday"))
    Delegation.objects.update(finished_at=timezone.now() - timedelta(days=2))
    settings.DELEGATION_IDEMPOTENCY_WINDOW_S = 0
    assert ask(admin(), caller, callee, idempotency_key="k").json()["delegation_id"] == first
    settings.DELEGATION_IDEMPOTENCY_WINDOW_S = 86400
    assert ask(admin(), caller, callee, idempotency_key="k").json()["delegation_id"] != first


@pytest.mark.django_db(transaction=True)
def test_twenty_at_once_are_one_delegation(doorbell):
    caller, callee = pair()
    api = [agent_of(caller.pk) for _ in range(20)]
    answers = at_once(*(lambda one=one: ask(one, caller, callee, idempotency_key="k") for one in api))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["delegation_id"] for answer in answers}) == 1
    assert sum("idempotent_hit" in answer.json() for answer in answers) == 19
    assert Delegation.objects.count() == feed(caller.pk, "delegate").count() == len(doorbell.rung) == 1


def test_the_stop_switch_refuses_new_ones_by_name_and_lets_the_others_end(settings: Any, doorbell):
    caller, callee = pair()
    first = ask(admin(), caller, callee, idempotency_key="k").json()["delegation_id"]
    settings.DELEGATION_LEDGER_WRITE = False
    refused = ask(admin(), caller, callee)
    assert refused.status_code == 503
    assert "DELEGATION_LEDGER_WRITE" in refused.json()["error"]
    assert Delegation.objects.count() == 1
    assert ask(admin(), caller, callee, idempotency_key="k").json()["delegation_id"] == first
    base = f"/workspaces/{caller.pk}/delegations"
    body = {"status": "completed", "response_preview": "done"}
    assert admin().post(f"{base}/{first}/update", body).json()["status"] == "completed"
    assert (fresh(Delegation(pk=first)).status, inbox(caller.pk).count()) == ("completed", 1)
    record = {"target_id": str(callee.pk), "task": "x", "delegation_id": "mine"}
    assert admin().post(f"{base}/record", record).status_code == 503


@pytest.mark.django_db(transaction=True)
def test_without_the_database_nothing_is_accepted(doorbell):
    caller, callee = pair()
    api = agent_of(caller.pk)
    with database_away():
        answer = ask(api, caller, callee)
    assert (answer.status_code, answer.json()["code"]) == (503, "platform_unavailable")
    assert doorbell.rung == []
