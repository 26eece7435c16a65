"""Deletes: rows first, then compute and storage; what is not done at once is owed and done later."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection
from django.db.models.functions import Now

from provisioning import services
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import ProvisionRun, RunKind, RunState, WorkspaceLifecycle
from provisioning.services import execution, stops, sweeps
from tests.clients import admin
from tests.provisioning.conftest import queued, running, slow_start, status_of
from workspaces.models import Status, Workspace
from workspaces.services import release_storage, remove_workspace

pytestmark = pytest.mark.django_db(transaction=True)

STUCK = BackendError(ErrorClass.TRANSIENT, "cannot stop", detail="daemon says no", retryable=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "STOP_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(stops, "LOCK_WAIT_S", 0.2)


def teardown_of(row: Workspace) -> ProvisionRun:
    return ProvisionRun.objects.get(workspace_id=row.pk, kind=RunKind.TEARDOWN)


def test_a_tree_is_removed_before_its_stops_begin(backend, doorbell):
    root = running(backend, doorbell)
    rows = [root, *(running(backend, doorbell, parent=root) for _ in range(6))]
    seen: set[str] = set()
    backend.before["stop"] = lambda _: seen.update(_statuses())
    answer = admin().delete(f"/workspaces/{root.pk}?confirm=true")
    assert (answer.status_code, answer.json()) == (200, {"status": "removed", "cascade_deleted": 6})
    assert seen == {"removed"}
    for row in rows:
        row.refresh_from_db()
        assert (row.cleanup_pending, row.instance_id, backend.running(row.pk)) == (False, None, [])
    assert len(backend.called("remove_storage")) == 7
    assert not WorkspaceLifecycle.objects.exists()


def _statuses() -> set[str]:
    found = set(Workspace.objects.values_list("status", flat=True))
    connection.close()
    return found


def test_a_failing_stop_is_told_owed_and_done_later(backend, doorbell):
    row = running(backend, doorbell)
    backend.failures["stop"] = deque([STUCK] * 3)
    answer = admin().delete(f"/workspaces/{row.pk}?confirm=true")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "workspace marked removed, but 1 stop call(s) failed — please retry",
        "removed_count": 1,
        "stop_failures": 1,
    }
    row.refresh_from_db()
    assert (row.status, row.cleanup_pending) == (Status.REMOVED, True)
    assert backend.called("remove_storage") == []
    assert teardown_of(row).state == RunState.QUEUED
    ProvisionRun.objects.update(due_at=Now() - timedelta(seconds=1))
    assert sweeps.requeue(_later()) == 1
    doorbell.work()
    row.refresh_from_db()
    assert (row.cleanup_pending, backend.running(row.pk)) == (False, [])
    assert teardown_of(row).state == RunState.SUCCEEDED


def _later() -> Any:
    from django.utils import timezone

    return timezone.now()


def test_repeating_the_delete_drives_what_is_owed(backend, doorbell):
    root = running(backend, doorbell)
    child = running(backend, doorbell, parent=root)
    backend.before["stop"] = lambda pk: _raise() if pk == child.pk else None
    assert admin().delete(f"/workspaces/{root.pk}?confirm=true").status_code == 500
    backend.before.clear()
    answer = admin().delete(f"/workspaces/{root.pk}?confirm=true")
    assert (answer.status_code, answer.json()) == (200, {"status": "removed", "cascade_deleted": 0})
    assert backend.running(child.pk) == []
    assert admin().delete(f"/workspaces/{root.pk}").status_code == 200
    doorbell.work()
    services.teardown_run(teardown_of(child).pk)
    assert teardown_of(child).state == RunState.SUCCEEDED  # nothing was owed any more


def _raise() -> None:
    raise STUCK


def test_a_cleanup_is_tried_without_end_with_growing_pauses(backend, doorbell):
    row = running(backend, doorbell)
    backend.failures["stop"] = deque([STUCK] * 60)
    admin().delete(f"/workspaces/{row.pk}?confirm=true")
    run = teardown_of(row)
    for attempt in range(1, 9):
        services.teardown_run(run.pk)
        run.refresh_from_db()
        assert (run.state, run.attempts) == (RunState.QUEUED, attempt)
    waited = ProvisionRun.objects.filter(pk=run.pk, due_at__gt=Now() + timedelta(seconds=590))
    assert waited.filter(due_at__lt=Now() + timedelta(seconds=601)).exists()


def test_storage_stays_when_its_removal_fails(backend, doorbell):
    row = running(backend, doorbell)
    backend.failures["remove_storage"] = deque([BackendError(ErrorClass.INTERNAL, "busy")])
    assert admin().delete(f"/workspaces/{row.pk}?confirm=true").status_code == 500
    services.teardown_run(teardown_of(row).pk)
    row.refresh_from_db()
    assert not row.cleanup_pending


def test_deleting_during_a_slow_start_leaves_no_compute(backend, doorbell):
    row = queued()
    with slow_start(backend, row):
        assert admin().delete(f"/workspaces/{row.pk}?confirm=true").status_code == 200
    assert (status_of(row), backend.running(row.pk)) == (Status.REMOVED, [])
    row.refresh_from_db()
    assert row.cleanup_pending  # its storage is still owed
    doorbell.work()
    services.teardown_run(teardown_of(row).pk)
    row.refresh_from_db()
    assert not row.cleanup_pending


def test_a_server_that_died_while_deleting_is_made_up_for(backend, doorbell):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(status=Status.REMOVED, generation=2, cleanup_pending=True)
    assert sweeps.clean_up(_later()) == 1
    assert sweeps.clean_up(_later()) == 0
    ProvisionRun.objects.filter(kind=RunKind.TEARDOWN).update(due_at=Now() - timedelta(seconds=1))
    sweeps.requeue(_later())
    doorbell.work()
    row.refresh_from_db()
    assert (row.cleanup_pending, backend.running(row.pk)) == (False, [])


def test_a_budget_that_runs_out_leaves_the_rest_owed(backend, doorbell):
    row = running(backend, doorbell)
    backend.latency_s["stop"] = 1.0
    Workspace.objects.filter(pk=row.pk).update(status=Status.REMOVED, generation=2, cleanup_pending=True)
    assert services.teardown([row.pk], budget_s=0.2) == 0
    assert teardown_of(row).state == RunState.QUEUED
    row.refresh_from_db()
    assert row.cleanup_pending


def test_live_workspaces_are_never_torn_down(backend, doorbell):
    row = running(backend, doorbell)
    assert services.teardown([row.pk], budget_s=5) == 0
    assert backend.running(row.pk) == [1]


def test_storage_that_a_purge_releases_in_the_middle_of_a_stop_is_owed_again(backend, doorbell):
    row = running(backend, doorbell)
    remove_workspace(workspace_id=row.pk, confirmed=True, keeps_storage=True)

    def purge_begins(_: Any) -> None:
        release_storage(row.pk)
        connection.close()

    backend.before["stop"] = purge_begins
    assert services.teardown([row.pk]) == 0
    row.refresh_from_db()
    assert (row.storage_kept, row.cleanup_pending, row.pk in backend.stored) == (False, True, True)
    del backend.before["stop"]
    assert services.teardown([row.pk]) == 0
    row.refresh_from_db()
    assert (row.cleanup_pending, row.pk in backend.stored) == (False, False)


def test_only_a_removed_workspace_keeps_storage(backend, doorbell):
    row = running(backend, doorbell)
    with pytest.raises(IntegrityError, match="workspaces_only_removed_keep_storage"):
        Workspace.objects.filter(pk=row.pk).update(storage_kept=True)
