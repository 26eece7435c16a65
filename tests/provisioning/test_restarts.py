"""Restarts: coalescing, debounce, limits, and what they must never revive."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from access.services import store_secrets
from activity.models import MetricCounter, StructureEvent
from provisioning import services
from provisioning.models import ProvisionRun, RunKind, RunState, WorkspaceLifecycle
from provisioning.services import Trigger
from tests.conftest import at_once
from tests.provisioning.conftest import queued, register, run_of, running, slow_start, status_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, Workspace
from workspaces.services import transitions

pytestmark = pytest.mark.django_db(transaction=True)


def counted(name: str, **labels: str) -> int:
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = MetricCounter.objects.filter(name=name, labels=text).first()
    return found.value if found else 0


def debounce_is_over(row: Workspace) -> None:
    WorkspaceLifecycle.objects.filter(pk=row.pk).update(cycle_started_at=Now() - timedelta(minutes=2))


def test_a_restart_is_accepted_at_once_and_done_by_the_worker(backend, doorbell):
    row = running(backend, doorbell)
    accepted = services.accept_restart(row.pk, {})
    assert accepted
    assert (accepted.status, accepted.generation) == (Status.PROVISIONING, 2)
    assert accepted.url == row.url  # still routable: nothing is stopped yet
    assert (
        timedelta(minutes=59)
        < accepted.provision_deadline_at - accepted.status_changed_at
        < timedelta(minutes=61)
    )
    assert len(backend.called("start")) == 1
    doorbell.work()
    run = run_of(row, 2)
    assert (run.kind, run.trigger, run.state) == (RunKind.RESTART, "explicit", RunState.STARTED)
    assert run.options == {"prior_status": "online"}
    assert backend.running(row.pk) == [2]
    assert [call.generation for call in backend.called("stop")] == [2]


def test_create_and_an_immediate_restart_end_with_one_compute(backend, doorbell):
    """Both messages arrive at workers at the same time, on a backend that takes its time."""
    backend.latency_s["start"] = 0.3
    row = queued()
    services.accept_restart(row.pk, {})
    create = ProvisionRun.objects.get(workspace_id=row.pk)
    seen: list[str] = []
    backend.before["start"] = lambda _: seen.append(status_of(row))
    at_once(lambda: services.provision(create.pk), lambda: services.restart_cycle(row.pk))
    doorbell.work()
    assert backend.running(row.pk) == [2]
    assert run_of(row, 1).state == RunState.SUPERSEDED
    assert run_of(row, 2).state == RunState.STARTED
    assert set(seen) == {"provisioning"}
    register(backend.specs[-1])
    assert status_of(row) == Status.ONLINE
    assert not StructureEvent.objects.filter(event_type="WORKSPACE_PROVISION_FAILED").exists()


def test_a_restart_while_the_create_is_running_supersedes_it(backend, doorbell):
    row = queued()
    with slow_start(backend, row):
        services.accept_restart(row.pk, {})
        doorbell.work()  # the other worker: finds the lock taken and leaves
        assert run_of(row, 1).state == RunState.RUNNING
    doorbell.work()  # rung by the first worker when it let go
    assert run_of(row, 1).state == RunState.SUPERSEDED
    assert (backend.running(row.pk), run_of(row, 2).state) == ([2], RunState.STARTED)


def test_twenty_requests_during_a_slow_cycle_cost_one_more_and_the_last_secret_arrives(backend, doorbell):
    row = running(backend, doorbell)
    entered, go_on = threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        entered.set()
        go_on.wait(10)

    services.request_restart(row.pk, Trigger.MUTATION, "secret")
    backend.before["start"] = slow
    worker = threading.Thread(target=lambda: at_once(lambda: services.restart_cycle(row.pk)))
    worker.start()
    assert entered.wait(10)

    def change(number: int) -> None:
        store_secrets(workspace_id=row.pk, values={f"KEY_{number}": "new"})
        assert services.request_restart(row.pk, Trigger.MUTATION, "secret")

    outcomes = at_once(*[lambda number=number: change(number) for number in range(20)])
    assert outcomes == [None] * 20
    go_on.set()
    worker.join(30)
    doorbell.work()
    assert len(backend.called("start")) == 3  # create, the slow cycle, one more
    assert {f"KEY_{number}" for number in range(20)} <= set(backend.specs[-1].environment)
    assert backend.running(row.pk) == [3]
    assert not WorkspaceLifecycle.objects.get(pk=row.pk).restart_pending
    assert counted("molecule_restart_coalesced_total") == 19


def test_a_request_before_the_queued_start_begins_is_served_by_that_start(backend, doorbell):
    row = queued()
    store_secrets(workspace_id=row.pk, values={"LATE": "1"})
    services.request_restart(row.pk, Trigger.MUTATION, "secret")
    doorbell.rung.reverse()  # the cycle's message overtakes the create's
    doorbell.work()
    assert [spec.generation for spec in backend.specs] == [1]
    assert backend.specs[0].environment["LATE"] == "1"
    assert run_of(row, 1).kind == RunKind.CREATE


def test_health_checks_are_dropped_after_a_cycle_and_a_mutation_is_not(backend, doorbell):
    row = running(backend, doorbell)
    services.request_restart(row.pk, Trigger.MUTATION, "secret")
    doorbell.work()
    register(backend.specs[-1])
    for _ in range(50):
        assert not services.request_restart(row.pk, Trigger.REACTIVE, "health")
    doorbell.work()
    assert len(backend.specs) == 2
    assert counted("molecule_restart_dropped_total", reason="debounce") == 50
    assert services.request_restart(row.pk, Trigger.MUTATION, "secret")
    doorbell.work()
    assert len(backend.specs) == 3


def test_health_checks_are_dropped_while_a_start_is_under_way(backend, doorbell):
    row = queued()
    assert not services.request_restart(row.pk, Trigger.REACTIVE, "health")
    assert counted("molecule_restart_dropped_total", reason="running") == 1


def test_a_health_check_restarts_what_is_offline_and_not_what_came_back(backend, doorbell):
    row = running(backend, doorbell)
    assert services.request_restart(row.pk, Trigger.REACTIVE, "health")
    doorbell.work()
    assert len(backend.specs) == 1  # it was online when its turn came
    transitions.mark_lost(Workspace.objects.filter(pk=row.pk))
    assert services.request_restart(row.pk, Trigger.REACTIVE, "health")
    doorbell.work()
    assert (status_of(row), backend.running(row.pk)) == (Status.PROVISIONING, [2])


def test_what_keeps_stopping_fails_after_five_automatic_restarts(backend, doorbell):
    row = running(backend, doorbell)
    for _ in range(6):
        transitions.mark_lost(Workspace.objects.filter(pk=row.pk))
        debounce_is_over(row)
        services.request_restart(row.pk, Trigger.REACTIVE, "health")
        doorbell.work()
        if status_of(row) == Status.PROVISIONING:
            register(backend.specs[-1])
    row.refresh_from_db()
    assert (row.status, len(backend.specs)) == (Status.FAILED, 6)
    assert "keeps stopping" in (row.last_sample_error or "")
    services.accept_restart(row.pk, {})
    doorbell.work()
    register(backend.specs[-1])
    assert status_of(row) == Status.ONLINE


@pytest.mark.parametrize("status", [Status.PAUSED, Status.HIBERNATING, Status.HIBERNATED, Status.REMOVED])
def test_parked_workspaces_are_not_revived_by_a_change(backend, doorbell, status):
    row = running(backend, doorbell)
    services.request_restart(row.pk, Trigger.MUTATION, "secret")
    Workspace.objects.filter(pk=row.pk).update(status=status, generation=2)
    assert not services.request_restart(row.pk, Trigger.MUTATION, "secret")
    doorbell.work()
    assert (status_of(row), len(backend.specs)) == (status, 1)


@pytest.mark.parametrize("status", [Status.PAUSED, Status.HIBERNATED])
def test_a_person_may_restart_what_is_parked(backend, doorbell, status):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(status=status, generation=2)
    services.accept_restart(row.pk, {})
    doorbell.work()
    assert backend.running(row.pk) == [3]


def test_a_removed_workspace_is_never_restarted(backend, doorbell):
    row = WorkspaceFactory(status=Status.REMOVED)
    assert services.accept_restart(row.pk, {}) is None
    assert status_of(row) == Status.REMOVED


def test_a_pause_overrules_a_restart_that_was_accepted_before_it(backend, doorbell):
    row = running(backend, doorbell)
    services.accept_restart(row.pk, {})
    services.pause(row.pk, cascade=True, dry_run=False)
    doorbell.work()
    assert (status_of(row), backend.running(row.pk)) == (Status.PAUSED, [])


def test_a_change_does_not_restart_below_a_paused_workspace(backend, doorbell):
    parent = running(backend, doorbell)
    row = running(backend, doorbell, parent=parent)
    Workspace.objects.filter(pk=parent.pk).update(status=Status.PAUSED)
    services.request_restart(row.pk, Trigger.MUTATION, "secret")
    doorbell.work()
    assert (status_of(row), backend.running(row.pk)) == (Status.ONLINE, [1])


def test_external_workspaces_are_never_restarted(backend, doorbell):
    row = WorkspaceFactory(runtime=EXTERNAL)
    assert not services.request_restart(row.pk, Trigger.MUTATION, "secret")
    assert services.accept_restart(row.pk, {}) is None
    assert not doorbell.rung


def test_options_of_requests_before_one_cycle_are_merged(backend, doorbell):
    row = running(backend, doorbell)
    services.accept_restart(row.pk, {"reset_session": True, "template": "a"})
    services.accept_restart(row.pk, {"template": "b"})
    doorbell.work()
    run = run_of(row, 3)
    assert run.options == {"reset_session": True, "template": "b", "prior_status": "online"}
    assert backend.specs[-1].reset_session
    assert len(backend.specs) == 2


def test_a_cycle_that_crashes_leaves_no_flag_behind(backend, doorbell):
    row = running(backend, doorbell)
    backend.before["stop"] = lambda _: 1 / 0
    services.accept_restart(row.pk, {})
    doorbell.work()
    assert status_of(row) == Status.FAILED
    assert not WorkspaceLifecycle.objects.get(pk=row.pk).restart_pending
    backend.before.clear()
    services.accept_restart(row.pk, {})
    doorbell.work()
    assert backend.running(row.pk) == [3]


def test_a_slow_workspace_does_not_hold_another_up(backend, doorbell):
    slow, quick = running(backend, doorbell), running(backend, doorbell)
    entered, go_on = threading.Event(), threading.Event()

    def wait_for(pk: Any) -> None:
        if pk == slow.pk:
            entered.set()
            go_on.wait(10)

    backend.before["stop"] = wait_for
    services.accept_restart(slow.pk, {})
    services.accept_restart(quick.pk, {})
    doorbell.rung.clear()
    worker = threading.Thread(target=lambda: at_once(lambda: services.restart_cycle(slow.pk)))
    worker.start()
    assert entered.wait(10)
    services.restart_cycle(quick.pk)
    assert backend.running(quick.pk) == [2]
    go_on.set()
    worker.join(20)
    assert backend.running(slow.pk) == [2]
