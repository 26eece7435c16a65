"""One change of a delegation: what it writes, what a repeat may do, what it costs."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, connection
from django.db.transaction import atomic
from django.test.utils import CaptureQueriesContext

from activity.models import ActivityLog
from delegations import selectors
from delegations.models import Delegation, Delivery, Source, Status
from delegations.services import Change, Outcome, mark_waiting, tell_owed, transition
from tests.delegations.factories import delegated, feed, fresh, inbox, pair, told
from tests.outages import statements_fail
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status as WorkspaceStatus
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db

DONE = Change(Status.COMPLETED, text="42 beans")
LATE = Change(Status.COMPLETED, text="another answer")


def test_an_end_writes_the_ledger_the_feed_the_inbox_and_one_event(
    published, django_capture_on_commit_callbacks
):
    row = delegated()
    with django_capture_on_commit_callbacks(execute=True):
        assert transition(row.pk, DONE).moved
        assert published == []
    stored = fresh(row)
    assert (stored.status, stored.result_preview, stored.error_detail) == ("completed", "42 beans", None)
    assert stored.finished_at == stored.notified_at == stored.updated_at
    task, result = feed(row.caller_id, "delegate").get(), feed(row.caller_id).get()
    assert (task.status, result.status) == ("completed", "completed")
    assert result.response_body == {"text": "42 beans", "delegation_id": row.pk}
    assert result.summary == "Delegation completed (42 beans)"
    (frame,) = published
    assert (frame.event, frame.workspace_id) == ("DELEGATION_COMPLETE", row.caller_id)
    assert frame.payload == {
        "delegation_id": row.pk,
        "target_id": str(row.callee_id),
        "response_preview": "42 beans",
    }
    assert frame.timestamp == result.created_at
    for line in (task, result):
        assert (line.source_id, line.target_id) == (row.caller_id, row.callee_id)
        assert line.request_body["delegation_id"] == line.response_body["delegation_id"] == row.pk


def test_the_copy_in_the_inbox_comes_from_the_callee_and_says_the_whole_answer():
    row = delegated()
    transition(row.pk, DONE)
    copy = inbox(row.caller_id).get()
    assert (copy.source_id, copy.target_id, copy.status) == (row.callee_id, row.caller_id, "ok")
    assert copy.response_body == {"text": "42 beans", "delegation_id": row.pk}
    message = copy.request_body["params"]["message"]
    name = Workspace.objects.get(pk=row.callee_id).name
    assert message["parts"] == [
        {"kind": "text", "text": f"Delegation {row.pk} to {name} completed:\n42 beans"}
    ]
    assert (message["role"], message["messageId"]) == ("agent", f"{row.pk}:result")
    assert message["metadata"] == {"delegation_id": row.pk, "status": "completed"}
    assert copy.summary == "Delegation result delivered"
    assert copy.seq > feed(row.caller_id).get().seq


def test_a_failure_says_why_everywhere():
    row = delegated()
    transition(row.pk, Change(Status.FAILED, error="no beans", via="sweeper"))
    assert fresh(row).error_detail == "no beans"
    result, copy = feed(row.caller_id).get(), inbox(row.caller_id).get()
    assert (result.summary, result.error_detail) == ("Delegation failed (no beans)", "no beans")
    assert result.response_body == {"error": "no beans", "delegation_id": row.pk}
    assert (copy.status, copy.error_detail, copy.summary) == ("error", "no beans", "Delegation failed")


def test_a_repeat_never_replaces_an_answer_and_tells_nobody():
    row = delegated()
    transition(row.pk, DONE)
    before = fresh(row)
    assert transition(row.pk, LATE).outcome == Outcome.REPLAY
    after = fresh(row)
    assert (after.result_preview, after.updated_at) == ("42 beans", before.updated_at)
    assert (inbox(row.caller_id).count(), told(row.caller_id)) == (1, ["SENT", "COMPLETE"])


@pytest.mark.parametrize("texts", [(None, "42 beans"), ("42 beans", None), (None, "42 beans", "a third")])
def test_either_order_of_the_end_and_its_text_keeps_the_text(texts: tuple[str | None, ...]):
    row = delegated()
    for text in texts:
        transition(row.pk, Change(Status.COMPLETED, text=text))
    assert fresh(row).result_preview == "42 beans"
    assert feed(row.caller_id).get().response_body["text"] == "42 beans"
    assert inbox(row.caller_id).get().response_body["text"] == "42 beans"
    assert told(row.caller_id) == ["SENT", "COMPLETE"]


def test_the_opposite_end_is_refused_and_a_late_answer_is_kept_in_the_feed():
    row = delegated()
    transition(row.pk, Change(Status.FAILED, error="too late"))
    for _ in range(2):
        assert transition(row.pk, DONE).outcome == Outcome.REFUSED
    assert (fresh(row).status, fresh(row).error_detail) == ("failed", "too late")
    late = feed(row.caller_id, "delegate_result_late").get()
    assert late.response_body == {"text": "42 beans", "delegation_id": row.pk}
    assert (inbox(row.caller_id).count(), told(row.caller_id)) == (1, ["SENT", "FAILED"])


def test_an_unknown_delegation_is_no_error_and_an_empty_id_is():
    assert transition("nobody", DONE).outcome == Outcome.MISSING
    with pytest.raises(ValueError):
        transition("", DONE)


def test_stuck_is_a_warning_that_an_answer_takes_back():
    row = delegated()
    transition(row.pk, Change(Status.STUCK, error="no heartbeat for 10m0s"))
    assert (fresh(row).error_detail, inbox(row.caller_id).count()) == ("no heartbeat for 10m0s", 0)
    transition(row.pk, DONE)
    assert (fresh(row).status, fresh(row).error_detail) == ("completed", None)
    assert told(row.caller_id) == ["SENT", "STATUS:stuck", "COMPLETE"]


def test_what_waits_for_its_reader_is_dispatched_and_shown_as_queued():
    row = delegated(status="dispatched")
    assert mark_waiting(row.pk, Delivery.POLL).moved
    assert mark_waiting(row.pk, Delivery.POLL).outcome == Outcome.REPLAY
    stored = fresh(row)
    assert (stored.status, stored.shown, stored.delivery) == ("dispatched", "queued", "poll")
    place = feed(row.caller_id).get()
    assert (place.status, place.summary) == ("queued", "Delegation delivered to inbox — awaiting reply")
    assert place.response_body == {"delegation_id": row.pk, "queued": True}
    assert feed(row.caller_id, "delegate").get().status == "queued"
    transition(row.pk, DONE)
    result = feed(row.caller_id).get()
    assert (result.pk, result.seq, result.status) == (place.pk, place.seq, "completed")
    assert told(row.caller_id) == ["SENT", "STATUS:queued", "COMPLETE"]


def test_what_has_ended_does_not_wait():
    row = delegated()
    transition(row.pk, DONE)
    assert mark_waiting(row.pk, Delivery.QUEUE).outcome == Outcome.REFUSED
    assert fresh(row).delivery is None


def test_texts_that_no_row_can_hold_are_stored_all_the_same():
    row = delegated(text="t" * 5000)
    transition(row.pk, Change(Status.COMPLETED, text="a" * 4095 + "世\x00\ud800"))
    stored = fresh(row)
    assert (len(stored.task_preview), stored.result_preview, stored.result_is_cut) == (4096, "a" * 4095, True)
    assert selectors.texts(stored).task == "t" * 5000
    assert selectors.texts(stored).outcome == "a" * 4095 + "世\ufffd\ufffd"
    other = delegated()
    transition(other.pk, Change(Status.FAILED, error="\x00" * 9000))
    assert len((fresh(other).error_detail or "").encode()) <= 4096


def test_without_the_push_nothing_reaches_the_inbox(settings: Any):
    settings.DELEGATION_RESULT_INBOX_PUSH = False
    row = delegated()
    transition(row.pk, DONE)
    assert (inbox(row.caller_id).count(), fresh(row).notified_at) == (0, None)
    assert (feed(row.caller_id).count(), told(row.caller_id)) == (1, ["SENT", "COMPLETE"])


def test_a_delegator_that_is_gone_is_told_nothing_and_the_row_ends():
    row = delegated()
    Workspace.objects.filter(pk=row.caller_id).update(status=WorkspaceStatus.REMOVED)
    assert transition(row.pk, DONE).moved
    assert inbox(row.caller_id).count() == 0


def test_a_delegator_whose_feed_was_purged_does_not_keep_the_row_open():
    row = delegated()
    ActivityLog.objects.filter(workspace_id=row.caller_id).delete()
    Workspace.objects.filter(pk=row.caller_id).delete()
    assert transition(row.pk, DONE).moved
    assert fresh(row).status == "completed"
    assert transition(delegated().pk, DONE).moved


def test_one_that_waits_on_the_line_is_told_there_or_else_through_the_inbox():
    row = delegated(source=Source.MCP_SYNC, inline_until="2030-01-01T00:00:00Z")
    transition(row.pk, Change(Status.COMPLETED, text="b" * 5000))
    assert (inbox(row.caller_id).count(), fresh(row).notified_at) == (0, None)
    assert tell_owed(row.pk)
    assert not tell_owed(row.pk)
    assert inbox(row.caller_id).get().response_body["text"] == "b" * 5000
    assert fresh(row).notified_at is not None


def test_a_database_error_leaves_nothing_half_written():
    row = delegated()
    with statements_fail("structure_events"), pytest.raises(Exception, match="driver text"):
        transition(row.pk, DONE)
    assert (fresh(row).status, feed(row.caller_id).count(), inbox(row.caller_id).count()) == ("queued", 0, 0)
    assert transition(row.pk, DONE).moved


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "change",
    [
        DONE,
        Change(Status.FAILED, error="no"),
        Change(Status.DISPATCHED),
        Change(Status.STUCK, error="silent"),
    ],
    ids=lambda change: change.to,
)
def test_a_change_costs_three_statements(change: Change):
    row = delegated()
    with CaptureQueriesContext(connection) as asked:
        assert transition(row.pk, change).moved
    statements = [one["sql"] for one in asked if one["sql"] not in {"BEGIN", "COMMIT"}]
    assert len(statements) == 3, statements


@pytest.mark.django_db(transaction=True)
def test_a_repeat_costs_one_statement():
    row = delegated()
    transition(row.pk, DONE)
    with CaptureQueriesContext(connection) as asked:
        transition(row.pk, DONE)
    assert len([one for one in asked if one["sql"] not in {"BEGIN", "COMMIT"}]) == 1


def test_the_database_refuses_an_end_without_its_time():
    row = delegated()
    with pytest.raises(IntegrityError), atomic():
        Delegation.objects.filter(pk=row.pk).update(status="completed")


def test_the_key_of_one_delegator_is_not_anothers():
    (one, callee), (other, _) = pair(), pair()
    third = WorkspaceFactory(parent_id=other.parent_id)
    assert delegated(one, callee, key="k").pk != delegated(other, third, key="k").pk
