"""The sweep: what is overdue, silent, unsent, orphaned, owed or old, and nothing else."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from config.jobs import Job
from delegations import services
from delegations.models import Delegation, Source, Status
from delegations.services import Change, transition
from delegations.services.sweeping import _DUE
from tests.clients import agent_of
from tests.conftest import at_once
from tests.delegations.factories import delegated, fresh, inbox, pair, told
from workspaces.models import Status as WorkspaceStatus
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db
LONG_AGO = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
ENDED = {"status": "completed", "finished_at": LONG_AGO}


def ago(**given: float) -> datetime:
    return timezone.now() - timedelta(**given)


def sweep(**options: Any) -> dict[str, int]:
    done = services.sweep(timezone.now(), **{"up_since": LONG_AGO, **options})
    return {name: number for name, number in done.items() if number}


def beating(row: Delegation, at: datetime | None) -> None:
    Workspace.objects.filter(pk=row.callee_id).update(last_heartbeat_at=at)


def test_what_is_past_its_deadline_fails_and_its_delegator_is_told():
    row = delegated(status="in_progress", deadline=ago(seconds=1), last_heartbeat=ago(hours=5))
    assert sweep() == {"deadline_failures": 1}
    assert (fresh(row).status, fresh(row).error_detail) == ("failed", "deadline exceeded by sweeper")
    assert (inbox(row.caller_id).count(), told(row.caller_id)) == (1, ["SENT", "FAILED"])
    assert sweep() == {}


@pytest.mark.parametrize("status", ["in_progress", "dispatched"])
def test_a_silent_one_is_stuck_and_nobody_is_told_that_it_failed(status: str, settings: Any):
    settings.DELEGATION_STUCK_THRESHOLD_S = 10
    row = delegated(status=status, last_heartbeat=ago(seconds=60))
    assert sweep() == {"stuck_marked": 1}
    stuck = fresh(row)
    assert (stuck.status, (stuck.error_detail or "")[:19]) == ("stuck", "no heartbeat for 1m")
    assert (inbox(row.caller_id).count(), told(row.caller_id)) == (0, ["SENT", "STATUS:stuck"])
    before = fresh(row).updated_at
    assert sweep() == {}
    assert fresh(row).updated_at == before
    transition(row.pk, Change(Status.COMPLETED, text="late"))
    assert (fresh(row).status, inbox(row.caller_id).count()) == ("completed", 1)


@pytest.mark.parametrize("status", ["queued", "dispatched", "in_progress", "stuck"])
def test_a_fresh_sign_of_life_leaves_the_row_alone(status: str):
    row = delegated(status=status, last_heartbeat=ago(seconds=5))
    assert sweep() == {}
    assert (fresh(row).status, fresh(row).updated_at) == (status, row.updated_at)


def test_without_its_own_beats_the_callees_count():
    old = ago(hours=2)
    silent = delegated(status="dispatched", created_at=old, dispatched_at=old)
    beating(silent, ago(minutes=30))
    fresh_callee = delegated(status="dispatched", created_at=old, dispatched_at=old)
    beating(fresh_callee, ago(seconds=3))
    never = delegated(status="dispatched", created_at=old, dispatched_at=old)
    beating(never, None)
    unknown = delegated(status="dispatched", created_at=old, dispatched_at=old)
    Workspace.objects.filter(pk=unknown.callee_id).delete()
    assert sweep() == {"stuck_marked": 1}
    assert (fresh(silent).error_detail or "").startswith("no heartbeat for 30m")
    assert [fresh(one).status for one in (fresh_callee, never, unknown)] == ["dispatched"] * 3


def test_a_callee_that_was_silent_before_gets_one_whole_threshold():
    row = delegated(status="dispatched", dispatched_at=ago(seconds=5))
    beating(row, ago(hours=9))
    assert sweep() == {}
    assert fresh(row).status == "dispatched"


def test_the_servers_own_outage_marks_nobody():
    old = ago(hours=2)
    row = delegated(status="dispatched", dispatched_at=old)
    beating(row, ago(hours=1))
    own = delegated(status="dispatched", last_heartbeat=ago(hours=1))
    assert sweep(up_since=ago(seconds=30)) == {"stuck_marked": 1}
    assert (fresh(row).status, fresh(own).status) == ("dispatched", "stuck")
    assert sweep() == {"stuck_marked": 1}


def test_a_start_that_was_lost_is_made_up_for(doorbell, django_capture_on_commit_callbacks):
    row = delegated(updated_at=ago(seconds=90))
    with django_capture_on_commit_callbacks(execute=True):
        assert sweep() == {"redispatched": 1}
        assert sweep() == {}
    assert doorbell.rung == [(Job.DELEGATE, {"delegation_id": row.pk})]
    assert (fresh(row).retry_count, fresh(row).status) == (1, "queued")


def test_what_can_never_be_begun_fails():
    row = delegated(updated_at=ago(seconds=90), retry_count=5)
    assert sweep() == {"deadline_failures": 1}
    assert (fresh(row).status, fresh(row).error_detail) == ("failed", "could not be dispatched")


def test_a_dead_dispatcher_leaves_a_stuck_row_that_is_not_sent_again(doorbell):
    row = delegated(
        status="dispatched", delivery="direct", dispatched_at=ago(minutes=3), lease_expires_at=ago(seconds=1)
    )
    assert sweep() == {"stuck_marked": 1}
    assert re.fullmatch(r"no heartbeat for 3m\d+s \(dispatcher lost\)", fresh(row).error_detail or "")
    services.dispatch(row.pk)
    assert (fresh(row).status, doorbell.rung) == ("stuck", [])
    path = f"/workspaces/{row.callee_id}/delegations/{row.pk}/update"
    agent_of(row.callee_id).post(path, {"status": "completed", "response_preview": "done"})
    assert fresh(row).status == "completed"


@pytest.mark.parametrize(
    "fields",
    [
        {"delivery": "queue", "lease_expires_at": None},
        {"delivery": None, "source": Source.RECORD},
        {"delivery": "direct", "lease_expires_at": "2999-01-01T00:00:00Z"},
    ],
)
def test_what_waits_in_the_queue_or_is_held_is_not_orphaned(fields: dict[str, Any]):
    row = delegated(status="dispatched", dispatched_at=ago(minutes=3), **fields)
    assert sweep() == {}
    assert fresh(row).status == "dispatched"


def test_delegations_of_removed_workspaces_end_even_without_a_bell():
    asked, asking = delegated(), delegated()
    Workspace.objects.filter(pk=asked.callee_id).update(status=WorkspaceStatus.REMOVED)
    Workspace.objects.filter(pk=asking.caller_id).update(status=WorkspaceStatus.REMOVED)
    assert sweep() == {"closed": 2}
    assert fresh(asked).error_detail == "target workspace removed"
    assert fresh(asking).error_detail == "caller workspace removed"
    assert (inbox(asked.caller_id).count(), inbox(asking.caller_id).count()) == (1, 0)


def test_an_end_that_nobody_was_told_on_the_line_reaches_the_inbox():
    row = delegated(source=Source.MCP_SYNC, inline_until=ago(seconds=1))
    transition(row.pk, Change(Status.COMPLETED, text="done"))
    held = delegated(source=Source.MCP_SYNC, inline_until="2999-01-01T00:00:00Z")
    transition(held.pk, Change(Status.COMPLETED, text="done"))
    assert sweep() == {"told": 1}
    assert (inbox(row.caller_id).count(), inbox(held.caller_id).count()) == (1, 0)
    assert sweep() == {}


def test_old_ends_are_purged_and_what_is_in_flight_never(settings: Any):
    delegated(**ENDED)
    old = delegated(created_at=LONG_AGO, deadline=timezone.now() + timedelta(days=1))
    settings.DELEGATION_RETENTION_DAYS = 0
    assert sweep() == {}
    settings.DELEGATION_RETENTION_DAYS = 90
    assert sweep() == {"purged": 1}
    assert [row.pk for row in Delegation.objects.all()] == [old.pk]


def test_one_bad_row_stops_no_other():
    rows = [delegated(deadline=ago(seconds=1)) for _ in range(3)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.delegation_id = '{rows[1].pk}' THEN RAISE EXCEPTION 'refused'; END IF;
                RETURN NEW; END $$;
            CREATE TRIGGER refuse BEFORE UPDATE ON delegations FOR EACH ROW EXECUTE FUNCTION refuse()"""
        )
    assert sweep() == {"deadline_failures": 2, "errors": 1}
    assert [fresh(row).status for row in rows] == ["failed", "queued", "failed"]


def test_a_sweep_with_nothing_to_do_costs_three_statements():
    delegated(last_heartbeat=timezone.now())
    with CaptureQueriesContext(connection) as asked:
        assert sweep() == {}
    assert len(asked) == 3


@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_fail_each_row_once():
    caller, callee = pair()
    first = delegated(caller, callee, deadline=ago(seconds=1))
    keys = [field.attname for field in Delegation._meta.concrete_fields if field.attname != "delegation_id"]
    values = {key: getattr(first, key) for key in keys}
    Delegation.objects.bulk_create([Delegation(**values) for _ in range(1999)])
    outcomes = at_once(sweep, sweep)
    assert sum(one["deadline_failures"] for one in outcomes) == 2000
    assert not any("errors" in one for one in outcomes)
    assert inbox(caller.pk).count() == 2000
    assert told(caller.pk).count("FAILED") == 2000
    assert not Delegation.objects.in_flight().exists()


def test_the_selection_uses_an_index_on_two_hundred_thousand_rows():
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO delegations (delegation_id, caller_id, callee_id, task_preview, status, deadline,
                                        finished_at, retry_count, source, result_is_cut)
            SELECT 'old-' || n, gen_random_uuid(), gen_random_uuid(), '', 'completed', now(), now(), 0,
                   'api', false FROM generate_series(1, 200000) n"""
        )
        cursor.execute("ANALYZE delegations")
        values = {
            "now": timezone.now(), "silent": ago(minutes=10), "unsent": ago(minutes=1),
            "trusts_callees": True, "seen": [], "limit": 500,
        }  # fmt: skip
        cursor.execute(f"EXPLAIN {_DUE}", values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Seq Scan on delegations" not in plan
    assert "on delegations" in plan
