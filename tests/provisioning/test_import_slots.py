"""Starts that an import asked for: a few at a time over all workers, and nobody else waits for them."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import UUID

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from config.jobs import Job, queue_of
from provisioning import dispatch, ledger, services
from provisioning.models import IMPORT, ProvisionRun, RunState
from provisioning.services import Trigger, sweeps
from tests.conftest import at_once
from tests.provisioning.conftest import Doorbell, run_of, running
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]


def imported() -> Workspace:
    row = WorkspaceFactory(status=Status.PROVISIONING)
    dispatch.provision_async(row, trigger=IMPORT)
    return row


class InFlight:
    """How many starts the backend is making, and the most it ever made at once."""

    def __init__(self, backend: Any) -> None:
        self.now, self.most, self._mutex = 0, 0, threading.Lock()
        real = backend.start

        def start(spec: Any) -> Any:
            with self._mutex:
                self.now += 1
                self.most = max(self.most, self.now)
            try:
                return real(spec)
            finally:
                with self._mutex:
                    self.now -= 1

        backend.start = start


def work_together(doorbell: Doorbell, workers: int, until: Any) -> None:
    """`workers` threads answer the bell until `until()`; a beat rings again for what is due."""
    mutex = threading.Lock()

    def answer() -> None:
        while not until():
            with mutex:
                message = doorbell.rung.pop(0) if doorbell.rung else None
            if message is None:
                time.sleep(0.01)
            elif message[0] == Job.RESTART_CYCLE:
                services.restart_cycle(UUID(str(message[1]["workspace_id"])))
            elif "run_id" in message[1]:
                services.provision(UUID(str(message[1]["run_id"])))

    outcomes = at_once(*[answer] * workers)
    assert outcomes == [None] * workers


def test_an_import_of_forty_never_has_more_than_three_starts_in_flight(backend, doorbell, caplog):
    """Acceptance: exactly forty starts, forty entry logs, never more than three at once."""
    caplog.set_level("INFO")
    backend.latency_s["start"] = 0.05
    in_flight = InFlight(backend)
    rows = [imported() for _ in range(40)]
    assert {job for job, _ in doorbell.rung} == {Job.PROVISION_IMPORTED}
    assert queue_of(Job.PROVISION_IMPORTED) == "bulk"
    done = ProvisionRun.objects.filter(state=RunState.STARTED)
    work_together(doorbell, 8, until=lambda: done.count() == 40)
    assert 1 < in_flight.most <= 3
    assert len(backend.specs) == 40
    assert {spec.workspace_id for spec in backend.specs} == {row.pk for row in rows}
    assert sum("evt: provision.start" in record.message for record in caplog.records) == 40
    assert sum("run.entered" in record.message for record in caplog.records) == 40


def test_a_restart_meanwhile_is_not_delayed(backend, doorbell, settings):
    settings.MOLECULE_PROVISION_CONCURRENCY = 2
    other = running(backend, doorbell)
    go_on = threading.Event()
    slow: set[Any] = set()
    backend.before["start"] = lambda pk: go_on.wait(30) if pk in slow else None
    rows = [imported() for _ in range(5)]
    slow.update(row.pk for row in rows)
    waiting = list(doorbell.rung)
    doorbell.rung.clear()
    workers = [
        threading.Thread(target=lambda ids=ids: at_once(lambda: services.provision(ids["run_id"])))
        for _, ids in waiting
    ]
    for worker in workers:
        worker.start()
    eventually(lambda: len(backend.called("start")) == 3, within_s=20)
    services.accept_restart(other.pk, {})
    services.restart_cycle(other.pk)
    assert backend.running(other.pk) == [2]  # done, while the import holds both of its slots
    assert [row for row in rows if backend.running(row.pk)] == []
    go_on.set()
    for worker in workers:
        worker.join(30)
    doorbell.work()
    assert all(backend.running(row.pk) == [1] for row in rows)


def test_a_start_without_a_slot_is_due_again_in_a_moment(backend, doorbell, settings):
    settings.MOLECULE_PROVISION_CONCURRENCY = 1
    first, second = imported(), imported()
    assert ledger.claim_run(run_of(first).pk)
    doorbell.rung.clear()
    services.provision(run_of(second).pk)
    run = run_of(second)
    assert (run.state, run.attempts, backend.specs, doorbell.rung) == (RunState.QUEUED, 0, [], [])
    assert 0 < (run.due_at - timezone.now()).total_seconds() <= 5
    ProvisionRun.objects.filter(pk=run.pk).update(due_at="2020-01-01T00:00:00Z")
    assert sweeps.requeue(timezone.now()) == 1
    assert doorbell.rung == [(Job.PROVISION_IMPORTED, {"run_id": run.pk})]


def test_the_slot_of_a_dead_worker_is_free_again(backend, doorbell, settings):
    settings.MOLECULE_PROVISION_CONCURRENCY = 1
    lost, waiting = imported(), imported()
    assert ledger.claim_run(run_of(lost).pk)
    ProvisionRun.objects.filter(pk=run_of(lost).pk).update(lease_expires_at=Now())
    services.provision(run_of(waiting).pk)
    assert backend.running(waiting.pk) == [1]


def test_a_change_during_an_import_takes_no_slot_of_its_own(backend, doorbell, settings):
    settings.MOLECULE_PROVISION_CONCURRENCY = 1
    first, second = imported(), imported()
    assert ledger.claim_run(run_of(first).pk)
    services.request_restart(second.pk, Trigger.MUTATION, "secret")
    services.restart_cycle(second.pk)
    assert (run_of(second).state, backend.specs) == (RunState.QUEUED, [])


@pytest.mark.parametrize("limit", [0, 5])
def test_zero_is_no_limit(backend, doorbell, settings, limit):
    settings.MOLECULE_PROVISION_CONCURRENCY = limit
    rows = [imported() for _ in range(7)]
    claimed = [ledger.claim_run(run_of(row).pk) for row in rows]
    assert sum(one is not None for one in claimed) == (limit or 7)


def test_of_many_claims_at_once_only_so_many_win(backend, doorbell):
    runs = [run_of(imported()).pk for _ in range(12)]
    outcomes = at_once(*[lambda pk=pk: ledger.claim_run(pk) for pk in runs])
    assert sum(isinstance(one, ProvisionRun) for one in outcomes) == 3
    assert not any(isinstance(one, Exception) for one in outcomes)
