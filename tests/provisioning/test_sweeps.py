"""The sweeps: each finds what is due, changes it once, and costs next to nothing when nothing is."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from activity.models import BackgroundJob, StructureEvent
from config.jobs import Job
from config.locks import try_lock
from provisioning import ledger, services, tasks
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import ProvisionRun, RunState, WorkspaceLifecycle
from provisioning.services import execution, parking, sweeps
from provisioning.services.restart_contexts import ring_for_contexts
from tests.conftest import at_once
from tests.provisioning.conftest import heartbeat, queued, register, run_of, running, status_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, Workspace
from workspaces.services import transitions

pytestmark = pytest.mark.django_db(transaction=True)

AGES_AGO = timedelta(days=1)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "STOP_PAUSES_S", (0.0, 0.0))


def now() -> datetime:
    return timezone.now()


def types_of(row: Workspace) -> list[str]:
    return list(
        StructureEvent.objects.filter(workspace_id=row.pk)
        .order_by("seq")
        .values_list("event_type", flat=True)
    )


# --- health
# ---------------------------------------------------------------------------------------------------------


def test_compute_that_died_is_noticed_and_started_again(backend, doorbell):
    row = running(backend, doorbell)
    backend.kill(row.pk)
    assert sweeps.check_health(now()) == 1
    assert types_of(row)[-1] == "WORKSPACE_OFFLINE"
    assert (status_of(row), sweeps.check_health(now())) == (Status.OFFLINE, 0)
    doorbell.work()
    assert (backend.running(row.pk), status_of(row)) == ([2], Status.PROVISIONING)
    register(backend.specs[-1])
    assert status_of(row) == Status.ONLINE


def test_a_backend_that_cannot_tell_condemns_nobody(backend, doorbell):
    row = running(backend, doorbell)
    backend.kill(row.pk)
    backend.unreachable = True
    with pytest.raises(ConnectionError):
        sweeps.check_health(now())
    backend.unreachable = False
    backend.before["status"] = lambda _: setattr(
        backend, "unreachable", True
    )  # fails between list and question
    assert sweeps.check_health(now()) == 0
    assert status_of(row) == Status.ONLINE


def test_a_pause_between_the_sweeps_read_and_its_write_wins(backend, doorbell):
    row = running(backend, doorbell)
    backend.kill(row.pk)
    backend.before["status"] = lambda pk: Workspace.objects.filter(pk=pk).update(
        status="paused", generation=2
    )
    assert sweeps.check_health(now()) == 0
    assert status_of(row) == Status.PAUSED


def test_a_start_whose_compute_ended_before_it_registered_fails_early(backend, doorbell):
    row = queued()
    doorbell.work()
    assert sweeps.check_health(now()) == 0
    backend.kill(row.pk)
    assert sweeps.check_health(now()) == 1
    assert (status_of(row), run_of(row).state, run_of(row).error_class) == ("failed", "failed", "boot_failed")


def test_a_start_in_progress_is_not_judged(backend, doorbell):
    row = queued()
    ledger.claim_run(run_of(row).pk)
    assert sweeps.check_health(now()) == 0
    assert status_of(row) == Status.PROVISIONING


def test_a_silent_external_agent_is_awaited_and_comes_back(no_backend, doorbell):
    row = WorkspaceFactory(runtime=EXTERNAL, last_heartbeat_at=now() - timedelta(seconds=181))
    fresh = WorkspaceFactory(runtime=EXTERNAL, last_heartbeat_at=now() - timedelta(seconds=170))
    never = WorkspaceFactory(runtime=EXTERNAL, status_changed_at=now() - AGES_AGO)
    assert sweeps.check_health(now()) == 2
    assert [status_of(one) for one in (row, fresh, never)] == ["awaiting_agent", "online", "awaiting_agent"]
    events = StructureEvent.objects.filter(workspace_id=row.pk).order_by("seq")
    assert [(event.event_type, event.payload) for event in events] == [
        ("WORKSPACE_OFFLINE", {}),
        ("WORKSPACE_AWAITING_AGENT", {"external": True, "reason": "heartbeat_stale"}),
    ]
    assert not doorbell.rung


# --- liveness
# -------------------------------------------------------------------------------------------------------


def test_a_managed_agent_without_heartbeats_is_lost_and_restarted(backend, doorbell):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(last_heartbeat_at=now() - timedelta(seconds=211))
    assert sweeps.check_liveness(now()) == 1
    assert status_of(row) == Status.OFFLINE
    doorbell.work()
    assert backend.running(row.pk) == [2]


@pytest.mark.parametrize("status", [one for one in Status if one not in {"online", "degraded"}])
def test_a_silent_agent_in_any_other_status_is_left_alone(no_backend, status):
    row = WorkspaceFactory(
        status=status,
        last_heartbeat_at=now() - AGES_AGO,
        last_sample_error="x",
        provision_deadline_at=now() + AGES_AGO,
    )
    sweeps.check_liveness(now())
    sweeps.check_health(now())
    assert status_of(row) == status


def test_a_dropped_request_does_not_strand_a_workspace(backend, doorbell):
    row = running(backend, doorbell)
    services.request_restart(row.pk, services.Trigger.MUTATION, "secret")
    doorbell.work()
    register(backend.specs[-1])
    backend.kill(row.pk)  # 50 s after the cycle began, say
    sweeps.check_health(now())
    doorbell.work()
    assert (status_of(row), len(backend.specs)) == (Status.OFFLINE, 2)
    assert sweeps.check_liveness(now()) == 0
    WorkspaceLifecycle.objects.update(cycle_started_at=Now() - timedelta(seconds=61))
    assert sweeps.check_liveness(now()) == 1
    doorbell.work()
    assert backend.running(row.pk) == [3]


# --- timeouts
# -------------------------------------------------------------------------------------------------------


def overdue(row: Workspace, by: int = 1) -> None:
    Workspace.objects.filter(pk=row.pk).update(provision_deadline_at=now() - timedelta(seconds=by))


def test_an_agent_that_never_registers_times_out_and_may_still_recover(backend, doorbell):
    row = queued()
    doorbell.work()
    assert sweeps.time_out_starts(now() + timedelta(seconds=599)) == 0
    assert sweeps.time_out_starts(now() + timedelta(seconds=601)) == 1
    event = StructureEvent.objects.get(event_type="WORKSPACE_PROVISION_FAILED")
    assert "did not register within 600 s" in event.payload["error"]
    assert (event.payload["timeout_secs"], event.payload["runtime"]) == (600, "langgraph")
    assert event.payload["source"] == "provision_timeout_sweep"
    assert run_of(row).state == RunState.FAILED
    assert sweeps.time_out_starts(now() + timedelta(seconds=700)) == 0
    register(backend.specs[0])
    assert (status_of(row), run_of(row).state) == (Status.ONLINE, RunState.SUCCEEDED)


def test_a_start_nobody_works_on_times_out_unless_others_are_served(backend, doorbell):
    row = queued()
    overdue(row)
    other = queued()
    ledger.claim_run(run_of(other).pk)
    assert sweeps.time_out_starts(now()) == 0
    ProvisionRun.objects.filter(workspace_id=other.pk).update(started_at=now() - timedelta(hours=2))
    assert sweeps.time_out_starts(now()) == 1
    row.refresh_from_db()
    assert "no worker picked the start up" in (row.last_sample_error or "")


def test_an_accepted_restart_waits_for_its_cycle_while_others_are_served(backend, doorbell):
    row = WorkspaceFactory()
    services.accept_restart(row.pk, {})
    overdue(row)
    other = queued()
    ledger.claim_run(run_of(other).pk)
    assert sweeps.time_out_starts(now()) == 0
    WorkspaceLifecycle.objects.update(restart_pending=False)
    assert sweeps.time_out_starts(now()) == 1


def test_a_start_that_hangs_in_the_backend_times_out_and_its_worker_finds_out(backend, doorbell):
    row = queued()

    def hang(_: Any) -> None:
        overdue(row)
        sweeps.time_out_starts(now())

    backend.before["start"] = hang
    doorbell.work()
    row.refresh_from_db()
    assert (row.status, run_of(row).state) == (Status.FAILED, RunState.FAILED)
    assert "did not start within 600 s" in (row.last_sample_error or "")
    assert run_of(row).compute_id  # known, so that it can be found


def test_a_rename_does_not_extend_the_clock(backend, doorbell):
    row = queued()
    doorbell.work()
    Workspace.objects.filter(pk=row.pk).update(name="new", updated_at=now() + AGES_AGO)
    assert sweeps.time_out_starts(now() + timedelta(seconds=601)) == 1


# --- parked compute
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.PAUSED, Status.HIBERNATED])
def test_compute_behind_a_parked_row_is_stopped(backend, doorbell, status):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(status=status, generation=2)
    assert sweeps.stop_parked(now()) == 1
    row.refresh_from_db()
    assert (backend.running(row.pk), row.status, row.url) == ([], status, "")
    assert sweeps.stop_parked(now()) == 0


def test_compute_that_came_back_behind_a_removed_row_is_torn_down(backend, doorbell):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(status=Status.REMOVED, generation=2)
    assert sweeps.stop_parked(now()) == 1
    assert sweeps.clean_up(now()) == 1
    ProvisionRun.objects.filter(kind="teardown").update(due_at=now() - AGES_AGO)
    sweeps.requeue(now())
    doorbell.work()
    assert backend.running(row.pk) == []


def test_an_owed_stop_spares_the_new_compute(backend, doorbell):
    row = running(backend, doorbell)
    backend.failures["stop"] = deque([BackendError(ErrorClass.TRANSIENT, "no", retryable=True)] * 3)
    services.accept_restart(row.pk, {})
    doorbell.work()
    register(backend.specs[-1])
    assert sweeps.stop_parked(now()) == 1
    assert backend.called("stop")[-1].generation == 2
    assert (backend.running(row.pk), status_of(row)) == ([2], Status.ONLINE)
    assert WorkspaceLifecycle.objects.get(pk=row.pk).stop_below_generation is None


def test_a_hibernation_cut_short_is_finished_after_five_minutes(backend, doorbell):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(
        status=Status.HIBERNATING, generation=2, status_changed_at=now()
    )
    assert sweeps.stop_parked(now()) == 0
    assert sweeps.stop_parked(now() + timedelta(minutes=6)) == 1
    assert (status_of(row), backend.running(row.pk)) == (Status.HIBERNATED, [])


@pytest.mark.parametrize("runs", [True, False])
def test_a_pause_cut_short_is_finished_and_announced_once(backend, doorbell, runs):
    row = running(backend, doorbell)
    claim = transitions.claim_pause(row.pk)  # and then its process dies
    assert claim
    if not runs:
        backend.kill(row.pk)
        assert sweeps.stop_parked(now()) == 0
    later = now() + timedelta(minutes=3)
    assert [sweeps.stop_parked(later), sweeps.stop_parked(later)] == [1, 0]
    row.refresh_from_db()
    assert (row.status, row.url, backend.running(row.pk)) == (Status.PAUSED, "", [])
    result = parking.Result()
    parking._confirm_pause(claim, result)  # it was only slow
    assert result.moved == [row.pk]
    assert types_of(row).count("WORKSPACE_PAUSED") == 1


def test_a_workspace_somebody_works_on_is_left_to_them(backend, doorbell):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(status=Status.PAUSED, generation=2)
    with try_lock(f"ws-lifecycle:{row.pk}"):
        assert sweeps.stop_parked(now()) == 0
    assert backend.running(row.pk) == [1]


def test_one_failing_row_does_not_stop_the_others(backend, doorbell):
    rows = [running(backend, doorbell) for _ in range(3)]
    Workspace.objects.update(status=Status.PAUSED, generation=2)
    bad = min(rows, key=lambda row: row.pk)
    backend.before["stop"] = lambda pk: 1 / 0 if pk == bad.pk else None
    assert sweeps.stop_parked(now()) == 2


# --- requeue
# --------------------------------------------------------------------------------------------------------


def test_a_lost_message_is_rung_again_and_not_with_every_tick(backend, doorbell):
    row = queued()
    doorbell.rung.clear()
    assert sweeps.requeue(now()) == 0  # its own message has had no chance yet
    ProvisionRun.objects.update(due_at=Now() - timedelta(seconds=1))
    assert [sweeps.requeue(now()), sweeps.requeue(now())] == [1, 0]
    doorbell.work()
    assert run_of(row).state == RunState.STARTED


def test_a_dead_workers_run_is_rung_for_and_a_living_ones_is_not(backend, doorbell):
    row = queued()
    run = ledger.claim_run(run_of(row).pk)
    ProvisionRun.objects.update(due_at=Now() - timedelta(seconds=1))
    doorbell.rung.clear()
    assert sweeps.requeue(now()) == 0
    ProvisionRun.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
    assert sweeps.requeue(now()) == 1
    assert doorbell.rung == [(Job.PROVISION, {"run_id": run.pk})]


def test_a_lost_restart_request_is_rung_again(backend, doorbell):
    row = running(backend, doorbell)
    services.accept_restart(row.pk, {})
    doorbell.rung.clear()
    WorkspaceLifecycle.objects.update(pending_since=now() - timedelta(minutes=1))
    assert sweeps.requeue(now()) == 1
    doorbell.work()
    assert backend.running(row.pk) == [2]


def test_an_accepted_start_whose_process_died_gets_its_run(backend, doorbell):
    row = WorkspaceFactory(status=Status.PROVISIONING, status_changed_at=now() - timedelta(minutes=1))
    fresh = WorkspaceFactory(status=Status.PROVISIONING)
    assert sweeps.requeue(now()) == 1
    doorbell.work()
    assert (backend.running(row.pk), backend.running(fresh.pk)) == ([1], [])


def test_old_history_goes_and_pointers_to_compute_stay(backend, doorbell):
    gone, kept = running(backend, doorbell), running(backend, doorbell)
    Workspace.objects.filter(pk=gone.pk).update(status=Status.REMOVED, generation=2)
    ProvisionRun.objects.update(finished_at=now() - timedelta(days=91))
    sweeps.clean_up(now())
    assert list(ProvisionRun.objects.values_list("workspace_id", flat=True)) == [kept.pk]


# --- ticks
# ----------------------------------------------------------------------------------------------------------

TICKS = {
    Job.HEALTH_SWEEP: tasks.health_sweep,
    Job.LIVENESS_BACKSTOP: tasks.liveness_backstop,
    Job.PROVISION_TIMEOUT_SWEEP: tasks.provision_timeout_sweep,
    Job.PARKED_COMPUTE: tasks.parked_compute,
    Job.WORKSPACE_CLEANUP: tasks.workspace_cleanup,
    Job.LIFECYCLE_REQUEUE: tasks.lifecycle_requeue,
}


@pytest.mark.parametrize("job", TICKS)
def test_two_schedulers_ring_and_one_body_runs(backend, job):
    at_once(TICKS[job], TICKS[job])
    assert BackgroundJob.objects.get(pk=job).runs == 1


def test_a_sweep_that_raises_is_on_record_and_the_others_go_on(backend, doorbell):
    running(backend, doorbell)
    backend.unreachable = True
    tasks.health_sweep()
    tasks.liveness_backstop()
    failed, fine = (
        BackgroundJob.objects.get(pk=Job.HEALTH_SWEEP),
        BackgroundJob.objects.get(pk=Job.LIVENESS_BACKSTOP),
    )
    assert (failed.errors, "ConnectionError" in (failed.last_error or "")) == (1, True)
    assert (fine.errors, fine.last_error) == (0, None)


SWEEPS = [
    sweeps.check_health,
    sweeps.check_liveness,
    sweeps.time_out_starts,
    sweeps.stop_parked,
    sweeps.clean_up,
    sweeps.requeue,
    ring_for_contexts,
]


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.__name__)
def test_an_idle_sweep_makes_three_statements_at_most(
    backend, doorbell, django_assert_max_num_queries, sweep
):
    running(backend, doorbell)
    heartbeat(backend.specs[0])
    WorkspaceFactory(status=Status.REMOVED)
    with django_assert_max_num_queries(3):
        assert sweep(now()) == 0
