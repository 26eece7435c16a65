"""Rows that are old enough go; what somebody still has to read stays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from activity import retention
from activity.models import ActivityLog, BackgroundJob, MetricCounter, StructureEvent
from activity.retention import prune
from activity.services import acknowledge
from activity.tasks import activity_retention
from config.jobs import Job
from config.settings import env
from tests.activity.factories import logged, received
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db
NOW = timezone.now()
YEAR = 365


@pytest.fixture(autouse=True)
def _a_week(settings: Any) -> None:
    settings.ACTIVITY_RETENTION_DAYS = 7


def aged(row: ActivityLog, days: float) -> ActivityLog:
    ActivityLog.objects.filter(pk=row.pk).update(created_at=NOW - timedelta(days=days))
    return row


def polling(**fields: Any) -> Workspace:
    return WorkspaceFactory(delivery_mode="poll", **fields)


def survives(row: ActivityLog) -> bool:
    prune(NOW)
    return ActivityLog.objects.filter(pk=row.pk).exists()


@pytest.mark.parametrize(("days", "stays"), [(6.9, True), (7.1, False)])
def test_a_line_of_the_feed_lives_its_days(days: float, stays: bool) -> None:
    assert survives(aged(logged(polling()), days)) is stays


@pytest.mark.parametrize(
    ("days", "is_acked", "stays"),
    [(8, False, True), (8, True, False), (YEAR - 1, False, True), (YEAR + 1, False, False)],
)
def test_a_message_that_was_not_read_waits_for_a_year(days: float, is_acked: bool, stays: bool) -> None:
    workspace = polling()
    row = aged(received(workspace), days)
    received(workspace)  # the newest of an inbox is kept for another reason
    if is_acked:
        acknowledge(workspace_id=workspace.pk, seq=row.seq)
    assert survives(row) is stays


def test_a_pushed_message_was_delivered_when_it_came() -> None:
    workspace = WorkspaceFactory()
    row = aged(received(workspace), 8)
    received(workspace)
    assert not survives(row)


def test_nobody_reads_the_inbox_of_a_removed_workspace() -> None:
    workspace = polling(status=Status.REMOVED)
    row = aged(received(workspace), 8)
    received(workspace)
    assert not survives(row)


@pytest.mark.parametrize("mode", ["poll", "push"])
def test_the_newest_message_of_an_inbox_stays_so_that_its_cursor_does(mode: str) -> None:
    workspace = WorkspaceFactory(delivery_mode=mode)
    older, newest = aged(received(workspace), 900), aged(received(workspace), 800)
    logged(workspace)
    acknowledge(workspace_id=workspace.pk, seq=newest.seq)
    assert survives(newest)
    assert not ActivityLog.objects.filter(pk=older.pk).exists()


def test_a_setting_makes_nothing_unread_go_earlier_than_a_year(settings: Any) -> None:
    settings.ACTIVITY_HARD_RETENTION_DAYS = 1
    workspace = polling()
    row = aged(received(workspace), 100)
    received(workspace)
    assert survives(row)
    settings.ACTIVITY_HARD_RETENTION_DAYS = 800
    aged(row, 700)
    assert survives(row)


def test_a_retention_longer_than_the_calendar_keeps_everything(settings: Any) -> None:
    settings.ACTIVITY_RETENTION_DAYS = settings.STRUCTURE_EVENTS_RETENTION_DAYS = 10**9
    assert survives(aged(logged(polling()), 900))


@pytest.mark.parametrize("given", ["abc", "-3", "0", "1; DROP TABLE x"])
def test_a_nonsense_setting_is_the_default(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ACTIVITY_RETENTION_DAYS", given)
    assert env._number("ACTIVITY_RETENTION_DAYS", 90, minimum=1) == 90


@pytest.mark.parametrize(("days", "left"), [(0, 2), (365, 1), (30, 0)])
def test_recorded_events_live_their_days(settings: Any, days: int, left: int) -> None:
    settings.STRUCTURE_EVENTS_RETENTION_DAYS = days
    for age in (40, 400):
        then = NOW - timedelta(days=age)
        StructureEvent.objects.create(event_type="WORKSPACE_ONLINE", created_at=then)
    assert prune(NOW)["structure_events"] == 2 - left
    assert StructureEvent.objects.count() == left


def test_many_rows_go_in_batches_around_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 10)
    workspace = polling()
    kept = [aged(received(workspace), 9) for _ in range(15)]
    for number in range(45):
        aged(logged(workspace), 8 + number / 10)
    assert prune(NOW) == {"activity_logs": 45, "structure_events": 0}
    assert ActivityLog.objects.count() == len(kept)
    assert MetricCounter.objects.get(name="molecule_activity_pruned_total").value == 45
    assert prune(NOW) == {"activity_logs": 0, "structure_events": 0}


def many_rows() -> None:
    """100 000 rows of feeds and 100 000 events, all young."""
    workspaces = [polling().pk for _ in range(20)]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO activity_logs (id, workspace_id, activity_type, status, created_at)"
            " SELECT gen_random_uuid(), (%s::uuid[])[1 + n %% 20],"
            " (ARRAY['agent_log', 'a2a_receive'])[1 + n %% 2], 'ok', now() - n * interval '1 second'"
            " FROM generate_series(1, 100000) n",
            [workspaces],
        )
        cursor.execute(
            "INSERT INTO structure_events (id, event_type, payload, created_at)"
            " SELECT gen_random_uuid(), 'WORKSPACE_ONLINE', '{}', now() - n * interval '1 second'"
            " FROM generate_series(1, 100000) n"
        )
        cursor.execute("ANALYZE activity_logs, structure_events")


def plan(statement: str) -> str:
    moments = {"soft": NOW - timedelta(days=7), "hard": NOW - timedelta(days=YEAR)}
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {statement}", {**moments, "since": retention._BEGINNING, "batch": 10_000})
        return "\n".join(row[0] for row in cursor.fetchall())


def test_a_cycle_with_nothing_to_do_is_two_statements_by_index() -> None:
    many_rows()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        prune(NOW)
    statements = [one["sql"] for one in queries if "SAVEPOINT" not in one["sql"]]
    assert len(statements) == 2
    activity, events = plan(retention._PRUNE_ACTIVITY), plan(retention._PRUNE_EVENTS)
    assert "activity_logs_retention" in activity
    assert "Seq Scan on activity_logs" not in activity
    assert "structure_events_recent" in events
    assert "Seq Scan on structure_events" not in events


@pytest.mark.django_db(transaction=True)
def test_the_job_prunes_and_is_on_record() -> None:
    row = aged(logged(polling()), 8)
    activity_retention()
    assert not ActivityLog.objects.filter(pk=row.pk).exists()
    assert BackgroundJob.objects.get(pk=Job.ACTIVITY_RETENTION).last_success_at is not None
