"""What agents record, report and beat."""

from __future__ import annotations

from typing import Any

import pytest

from delegations.models import Delegation
from tests.clients import Api, admin, agent_of
from tests.conftest import at_once
from tests.delegations.factories import delegated, feed, fresh, inbox, pair, told
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


def record(api: Api, caller: Workspace, callee: Workspace, one: str = "agent-1", task: str = "x") -> Any:
    body = {"target_id": str(callee.pk), "task": task, "delegation_id": one}
    return api.post(f"/workspaces/{caller.pk}/delegations/record", body)


def update(api: Api, workspace_id: Any, one: str, status: str, **more: Any) -> Any:
    return api.post(f"/workspaces/{workspace_id}/delegations/{one}/update", {"status": status, **more})


def test_what_the_agent_sent_itself_is_taken_down_once(doorbell):
    caller, callee = pair()
    api = agent_of(caller.pk)
    for _ in range(2):
        answer = record(api, caller, callee)
        assert (answer.status_code, answer.json()) == (
            202,
            {"delegation_id": "agent-1", "status": "recorded"},
        )
    row = Delegation.objects.get()
    assert (row.pk, row.status, row.source, row.lease_expires_at) == ("agent-1", "dispatched", "record", None)
    assert row.dispatched_at is not None
    assert feed(caller.pk, "delegate").get().status == "dispatched"
    assert (told(caller.pk), doorbell.rung) == (["SENT"], [])


def test_an_id_belongs_to_one_pair():
    caller, callee = pair()
    record(admin(), caller, callee)
    answer = record(admin(), callee, caller)
    assert (answer.status_code, answer.json()) == (409, {"error": "delegation_id already in use"})
    assert (Delegation.objects.get().caller_id, told(callee.pk)) == (caller.pk, [])


@pytest.mark.parametrize("one", ["", "x" * 129, "a\nb"])
def test_an_id_is_short_printable_text(one: str):
    caller, callee = pair()
    answer = record(admin(), caller, callee, one)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


def test_a_record_of_nothing_and_of_oneself():
    caller, callee = pair()
    path = f"/workspaces/{caller.pk}/delegations/record"
    for body in ({}, {"target_id": str(callee.pk), "task": "x"}, {"delegation_id": "a", "task": "x"}):
        assert admin().post(path, body).json() == {"error": "invalid request body"}
    assert record(admin(), caller, caller).status_code == 400
    bad = {"target_id": "junk", "task": "x", "delegation_id": "a"}
    assert admin().post(path, bad).json() == {"error": "target_id must be a valid UUID"}
    assert not Delegation.objects.exists()


def test_strangers_may_record_what_has_happened():
    (caller, _), (stranger, _) = pair(), pair()
    assert record(agent_of(caller.pk), caller, stranger).status_code == 202


@pytest.mark.django_db(transaction=True)
def test_one_id_recorded_at_once_is_one_row():
    caller, callee = pair()
    answers = at_once(*(lambda: record(admin(), caller, callee),) * 5)
    assert {one.status_code for one in answers} == {202}
    assert Delegation.objects.count() == feed(caller.pk, "delegate").count() == 1


@pytest.mark.parametrize("reporter", ["caller", "callee"])
def test_caller_and_callee_may_tell_how_it_ended(reporter: str):
    row = delegated()
    one = row.caller_id if reporter == "caller" else row.callee_id
    answer = update(agent_of(one), one, row.pk, "completed", response_preview="42 beans")
    assert (answer.status_code, answer.json()) == (200, {"status": "completed", "delegation_id": row.pk})
    assert (fresh(row).status, fresh(row).result_preview) == ("completed", "42 beans")
    assert (inbox(row.caller_id).count(), told(row.caller_id)) == (1, ["SENT", "COMPLETE"])


def test_nobody_else_may():
    row = delegated()
    (stranger, _) = pair()
    for api, one in ((agent_of(stranger.pk), stranger.pk), (admin(), stranger.pk)):
        answer = update(api, one, row.pk, "completed")
        assert (answer.status_code, answer.json()) == (404, {"error": "delegation not found"})
    assert update(admin(), stranger.pk, "unknown", "completed").status_code == 404
    assert admin().post(f"/workspaces/{stranger.pk}/delegations/{row.pk}/heartbeat").status_code == 404
    assert fresh(row).updated_at == row.updated_at


def test_a_replay_changes_nothing_and_the_opposite_is_ignored():
    row = delegated()
    update(admin(), row.caller_id, row.pk, "completed", response_preview="42 beans")
    before = fresh(row)
    again = update(admin(), row.caller_id, row.pk, "completed", response_preview="other")
    assert again.json() == {"status": "completed", "delegation_id": row.pk}
    answer = update(admin(), row.caller_id, row.pk, "failed", error="no")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "completed", "delegation_id": row.pk, "ignored": True},
    )
    after = fresh(row)
    assert (after.result_preview, after.updated_at) == ("42 beans", before.updated_at)
    assert (inbox(row.caller_id).count(), told(row.caller_id)) == (1, ["SENT", "COMPLETE"])


def test_a_failure_without_a_reason_has_one():
    row = delegated()
    update(admin(), row.caller_id, row.pk, "failed")
    assert "without a reason" in (fresh(row).error_detail or "")


@pytest.mark.parametrize("status", ["in_progress", "received", "", None, 7])
def test_other_words_are_no_end(status: Any):
    row = delegated()
    answer = update(admin(), row.caller_id, row.pk, status)
    assert (answer.status_code, answer.json()) == (400, {"error": "status must be 'completed' or 'failed'"})


def test_a_busy_callee_is_told_once_and_the_ledger_stays():
    caller, callee = pair()
    record(admin(), caller, callee)
    for _ in range(2):
        answer = update(admin(), caller.pk, "agent-1", "queued")
        assert (answer.status_code, answer.json()) == (200, {"status": "queued", "delegation_id": "agent-1"})
    row = Delegation.objects.get()
    assert (row.status, row.delivery) == ("dispatched", None)
    assert (feed(caller.pk).get().status, feed(caller.pk, "delegate").get().status) == ("queued", "queued")
    assert told(caller.pk) == ["SENT", "STATUS:queued"]


def test_a_beat_is_progress_and_revives_a_stuck_one():
    row = delegated(status="stuck", error_detail="no heartbeat for 10m0s")
    path = f"/workspaces/{row.callee_id}/delegations/{row.pk}/heartbeat"
    assert agent_of(row.callee_id).post(path).json() == {"status": "in_progress"}
    first = fresh(row)
    assert (first.status, first.error_detail) == ("in_progress", None)
    assert first.last_heartbeat is not None
    assert admin().post(path).json() == {"status": "in_progress"}
    assert fresh(row).last_heartbeat > first.last_heartbeat
    assert told(row.caller_id) == ["SENT", "STATUS:in_progress"]


def test_a_beat_after_the_end_changes_nothing():
    row = delegated()
    update(admin(), row.caller_id, row.pk, "completed", response_preview="42 beans")
    before = fresh(row)
    path = f"/workspaces/{row.caller_id}/delegations/{row.pk}/heartbeat"
    assert admin().post(path).json() == {"status": "completed"}
    assert (fresh(row).updated_at, fresh(row).last_heartbeat) == (before.updated_at, None)
