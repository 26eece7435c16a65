"""The tick: who is due is claimed once, whatever happens to schedulers, workers and rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from activity.models import ActivityLog, BackgroundJob, StructureEvent
from schedules import tasks
from schedules.leases import renew
from schedules.models import Schedule
from schedules.services import claiming, fire, firing, tick
from schedules.statements import bounded
from tests.a2a.fake_agent import FakeAgent, waits
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.schedules.conftest import Doorbell, scheduled
from tests.schedules.factories import PAST, ScheduleFactory
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory
from workspaces.cache import runtime_key
from workspaces.models import Status
from workspaces.services import remove_workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("doorbell")]

NOW = datetime(2026, 11, 27, 5, 2, tzinfo=UTC)


def ticked(now: datetime | None = None, **expected: int) -> None:
    done = {name: number for name, number in tick(now or timezone.now()).items() if number}
    assert done == expected


def test_what_is_due_is_claimed_and_rung_for_and_its_next_time_counts_from_now(doorbell: Doorbell):
    late, later = ScheduleFactory(next_run_at=NOW), ScheduleFactory(next_run_at=NOW + timedelta(seconds=1))
    oldest = ScheduleFactory()  # missed since January: one late run
    ticked(NOW, claimed=2)
    assert doorbell.for_runs() == [oldest.pk, late.pk]
    oldest.refresh_from_db()
    later.refresh_from_db()
    assert oldest.next_run_at == datetime(2026, 11, 27, 5, 5, tzinfo=UTC)
    assert (oldest.slot, oldest.run_count) == (PAST, 0)
    assert later.slot is None


@pytest.mark.parametrize(
    "fields",
    [
        {"enabled": False},
        {"next_run_at": NOW + timedelta(seconds=1)},
        {"slot": PAST, "lease_expires_at": NOW},
    ],
    ids=["off", "early", "under way"],
)
def test_what_is_not_due(fields: dict[str, Any], doorbell: Doorbell):
    made = ScheduleFactory(**fields)
    tick(NOW - timedelta(seconds=1) if "slot" in fields else NOW)
    assert doorbell.rung == []
    assert Schedule.objects.get().next_run_at == made.next_run_at


@pytest.mark.parametrize("status", [Status.PAUSED, Status.REMOVED])
def test_a_parked_workspace_is_left_alone_and_runs_once_when_it_is_back(status: Status, doorbell: Doorbell):
    made = ScheduleFactory(workspace=WorkspaceFactory(status=status))
    ticked()
    made.refresh_from_db()
    assert made.next_run_at == PAST
    made.workspace.status = Status.ONLINE
    made.workspace.save()
    ticked(claimed=1)
    ticked(rung=1)  # nobody has begun
    assert doorbell.for_runs() == [made.pk, made.pk]


def test_a_sleeping_workspace_has_its_runs():
    ScheduleFactory(workspace=WorkspaceFactory(status=Status.HIBERNATED))
    ticked(claimed=1)


def test_a_pause_between_claim_and_run_makes_the_run_late(agent: FakeAgent, doorbell: Doorbell):
    made = scheduled(agent)
    ticked(claimed=1)
    due = Schedule.objects.get(pk=made.pk).slot
    made.workspace.status = Status.PAUSED
    made.workspace.save()
    doorbell.work()
    assert agent.requests == []
    made.refresh_from_db()
    assert (made.slot, made.run_count, made.last_status, made.next_run_at) == (None, 0, "", due)
    made.workspace.status = Status.ONLINE
    made.workspace.save()
    ticked(claimed=1)
    doorbell.work()
    assert len(agent.requests) == 1


def test_a_schedule_that_was_switched_off_or_deleted_after_its_claim_does_not_run(
    agent: FakeAgent, doorbell: Doorbell
):
    off, gone = scheduled(agent), scheduled(agent)
    ticked(claimed=2)
    Schedule.objects.filter(pk=off.pk).update(enabled=False)
    gone.delete()
    doorbell.work()
    assert agent.requests == []
    assert Schedule.objects.get().slot is None


def test_two_schedulers_fire_each_schedule_once(agent: FakeAgent, doorbell: Doorbell):
    made = [scheduled(agent, prompt=f"p{number}") for number in range(6)]
    ticks = at_once(*[lambda: tick(timezone.now())] * 4)
    assert sum(done["claimed"] for done in ticks) == 6
    rings = doorbell.for_runs()
    assert set(rings) == {one.pk for one in made}
    doorbell.rung.clear()
    assert at_once(*[lambda one=one: fire(one) for one in [*rings, *rings]]) == [None] * len(rings) * 2
    doorbell.work()
    assert sorted(seen.text for seen in agent.requests) == [f"p{number}" for number in range(6)]
    assert set(Schedule.objects.values_list("run_count", "last_status")) == {(1, "ok")}


def test_a_scheduler_that_meets_a_row_in_use_goes_on():
    """A PATCH holds the row: the tick does not wait for it, and looks again the next time."""
    made = ScheduleFactory()
    with transaction.atomic():
        Schedule.objects.select_for_update().get(pk=made.pk)
        (done,) = at_once(lambda: tick(timezone.now()))
    assert not any(done.values())
    ticked(claimed=1)


def test_a_schedule_that_was_changed_while_it_was_judged_is_not_claimed(monkeypatch: pytest.MonkeyPatch):
    made = ScheduleFactory()
    real = claiming.next_run

    def changed_meanwhile(*given: Any) -> datetime:
        Schedule.objects.filter(pk=made.pk).update(next_run_at=NOW + timedelta(days=365))
        return real(*given)

    monkeypatch.setattr(claiming, "next_run", changed_meanwhile)
    ticked()
    assert Schedule.objects.get().slot is None


# --- A scheduler or a worker dies


def test_a_lost_ring_costs_one_tick(agent: FakeAgent, doorbell: Doorbell):
    """Killed between claim and run: the run is late, not lost."""
    made = scheduled(agent)
    ticked(claimed=1)
    doorbell.rung.clear()
    ticked(rung=1)
    doorbell.work()
    assert len(agent.requests) == 1
    made.refresh_from_db()
    assert (made.run_count, made.last_status, made.slot) == (1, "ok", None)
    ticked()


def test_a_run_whose_worker_died_is_told_and_not_repeated(agent: FakeAgent, doorbell: Doorbell):
    made = scheduled(agent)
    ticked(claimed=1)
    assert firing._take(made.pk)
    ticked()  # its lease is young
    Schedule.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    ticked(lost=1)
    doorbell.work()
    assert agent.requests == []
    made.refresh_from_db()
    assert (made.last_status, made.run_count, made.slot) == ("error", 1, None)
    assert "the worker stopped" in made.last_error
    assert ActivityLog.objects.get(activity_type="cron_run").status == "error"


def test_a_worker_that_lives_keeps_its_lease():
    made, claimed = ScheduleFactory(), ScheduleFactory()
    ticked(claimed=2)
    assert firing._take(made.pk)
    Schedule.objects.filter(pk=made.pk).update(lease_expires_at=timezone.now() + timedelta(seconds=1))
    assert renew([str(made.pk), str(claimed.pk)]) == 1
    made.refresh_from_db()
    assert made.lease_expires_at > timezone.now() + timedelta(seconds=30)


def test_a_worker_that_comes_back_late_writes_nothing(agent: FakeAgent, doorbell: Doorbell):
    agent.behaves(waits())
    made = scheduled(agent)
    ticked(claimed=1)

    def overtaken() -> None:
        eventually(lambda: bool(agent.requests))
        Schedule.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
        ticked(lost=1)
        agent.released.set()

    outcomes = at_once(doorbell.work, overtaken)
    assert outcomes == [None, None]
    made.refresh_from_db()
    assert (made.run_count, made.last_status) == (1, "error")
    assert StructureEvent.objects.filter(event_type="CRON_EXECUTED").count() == 1


def test_a_schedule_does_not_overlap_itself(agent: FakeAgent, doorbell: Doorbell):
    agent.behaves(waits())
    made = scheduled(agent, cron_expr="* * * * *")
    ticked(claimed=1)

    def many_ticks() -> None:
        eventually(lambda: bool(agent.requests))
        Schedule.objects.update(next_run_at=PAST)  # a minute has passed
        for _ in range(3):
            ticked()
        agent.released.set()

    assert at_once(doorbell.work, many_ticks) == [None, None]
    assert len(agent.requests) == 1
    ticked(claimed=1)
    doorbell.work()
    assert len(agent.requests) == 2
    assert Schedule.objects.get(pk=made.pk).run_count == 2


# --- Rows that cannot be handled


@pytest.mark.parametrize("broken", [{"cron_expr": "nonsense"}, {"timezone": "Mars"}], ids=["cron", "zone"])
def test_a_poisoned_row_neither_fires_nor_loops_and_is_switched_off(
    broken: dict[str, str], agent: FakeAgent, doorbell: Doorbell
):
    bad, good = scheduled(agent, **broken), scheduled(agent, prompt="good")
    ticked(claimed=1, errors=1)
    bad.refresh_from_db()
    assert (bad.next_run_at, bad.enabled, bad.last_status) == (PAST, True, "error")
    assert bad.last_error.startswith("the next run cannot be computed: invalid")
    ticked(errors=1, rung=1)
    ticked(errors=1, rung=1)
    bad.refresh_from_db()
    assert (bad.next_run_at, bad.enabled) == (PAST, False)
    ticked(rung=1)
    doorbell.work()
    assert [seen.text for seen in agent.requests] == ["good"]
    assert Schedule.objects.get(pk=good.pk).last_status == "ok"


def test_a_mended_row_runs_again():
    bad = ScheduleFactory(cron_expr="nonsense")
    ticked(errors=1)
    Schedule.objects.update(cron_expr="* * * * *")
    ticked(claimed=1)
    bad.refresh_from_db()
    assert bad.consecutive_slot_errors == 0


def test_one_row_the_database_refuses_stops_no_other(monkeypatch: pytest.MonkeyPatch):
    bad, good = ScheduleFactory(), ScheduleFactory()
    real = Schedule.save

    def refusing(self: Schedule, **given: Any) -> None:
        with statements_fail("UPDATE") if self.pk == bad.pk else transaction.atomic():
            real(self, **given)

    monkeypatch.setattr(Schedule, "save", refusing)
    ticked(claimed=1, errors=1)
    assert Schedule.objects.get(pk=good.pk).slot == PAST
    assert Schedule.objects.get(pk=bad.pk).slot is None


def test_a_tick_that_cannot_ask_is_an_error_of_the_job_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch):
    ScheduleFactory()
    with statements_fail('FROM "workspace_schedules"'):
        tasks.scheduler()
    job = BackgroundJob.objects.get(pk="scheduler")
    assert (job.runs, job.errors) == (1, 1)
    BackgroundJob.objects.update(last_started_at=timezone.now() - timedelta(seconds=60))
    tasks.scheduler()
    assert BackgroundJob.objects.get(pk="scheduler").errors == 1
    assert Schedule.objects.get().slot == PAST


def test_a_row_without_a_next_time_gets_one_and_does_not_run(doorbell: Doorbell):
    made = ScheduleFactory(next_run_at=None)
    ticked(NOW, computed=1)
    made.refresh_from_db()
    assert (made.next_run_at, made.slot) == (datetime(2026, 11, 27, 5, 5, tzinfo=UTC), None)
    assert doorbell.rung == []


def test_a_runtime_that_keeps_its_schedules_itself_is_left_alone(valkey: Any, doorbell: Doorbell):
    made, other, odd = ScheduleFactory(), ScheduleFactory(), ScheduleFactory()
    valkey.set(runtime_key(odd.workspace_id), b"[")
    valkey.set(runtime_key(made.workspace_id), b'{"capabilities":{"scheduler":true}}')
    valkey.set(runtime_key(other.workspace_id), b'{"capabilities":{"scheduler":false}}')
    ticked(NOW, claimed=2, native=1)
    assert set(doorbell.for_runs()) == {other.pk, odd.pk}
    made.refresh_from_db()
    assert made.next_run_at == datetime(2026, 11, 27, 5, 5, tzinfo=UTC)
    assert (made.run_count, made.last_status, made.last_run_at) == (0, "", None)


# --- Budgets


def test_a_tick_takes_fifty():
    row = WorkspaceFactory()
    for _ in range(53):
        ScheduleFactory(workspace=row)
    ticked(claimed=50)
    ticked(claimed=3, rung=50)


def test_a_tick_with_nothing_to_do_asks_three_times_and_through_indexes():
    ScheduleFactory(next_run_at=NOW + timedelta(days=1))
    with CaptureQueriesContext(connection) as queries:
        ticked(NOW)
    asked = [one["sql"] for one in queries if not one["sql"].startswith(("BEGIN", "COMMIT"))]
    assert len(asked) == 3
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO workspace_schedules (id, workspace_id, cron_expr, prompt, next_run_at)"
            " SELECT gen_random_uuid(), %s, '* * * * *', '', now() + interval '1 day'"
            " FROM generate_series(1, 50000)",
            [Schedule.objects.get().workspace_id],
        )
        cursor.execute("ANALYZE workspace_schedules")
        plans = []
        for sql in asked[1:]:
            cursor.execute(f"EXPLAIN {sql}")
            plans.append("\n".join(line for (line,) in cursor.fetchall()))
    for index, plan in zip(["workspace_schedules_due", "workspace_schedules_flight"], plans, strict=True):
        assert index in plan
        assert "Seq Scan on workspace_schedules" not in plan


def test_no_statement_waits_for_ever():
    with bounded(), connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("10s",)
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() != ("10s",)


def test_a_removal_stops_the_schedules_of_its_subtree_and_of_no_other():
    root = WorkspaceFactory()
    child = WorkspaceFactory(parent=root)
    mine = [ScheduleFactory(workspace=root), ScheduleFactory(workspace=child)]
    off = ScheduleFactory(workspace=child, enabled=False)
    other = ScheduleFactory()
    remove_workspace(workspace_id=root.pk, confirmed=True)
    rows = {row.pk: (row.enabled, row.stopped_by_removal) for row in Schedule.objects.all()}
    assert [rows[one.pk] for one in mine] == [(False, True)] * 2
    assert rows[off.pk] == (False, False)
    assert rows[other.pk] == (True, False)
