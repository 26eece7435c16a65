"""How far a start has come: events as it happens, and the steps that a reload shows."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from activity.metrics import render
from activity.tally import tally
from provisioning import leases, ledger, services
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import ProvisionRun
from tests.provisioning.conftest import queued, register, run_of, running
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)

BROKEN = BackendError(ErrorClass.BOOT_FAILED, "workspace start failed", detail="the secret reason")


def told(published: list[Any], row: Workspace) -> list[tuple[str, str]]:
    return [
        (frame.payload["step"], frame.payload["status"])
        for frame in published
        if frame.event == "WORKSPACE_PROVISION_PROGRESS" and frame.workspace_id == row.pk
    ]


def twice(*steps: str) -> list[tuple[str, str]]:
    return [(step, status) for step in steps for status in ("running", "ok")]


def test_each_step_is_told_when_it_begins_and_when_it_ends(backend, doorbell, published):
    row = queued()
    assert told(published, row) == [("queued", "running")]
    doorbell.work()
    begun = [*twice("queued", "prepare", "image", "create"), ("boot", "running")]
    assert told(published, row) == begun
    register(backend.specs[-1])
    assert told(published, row) == [*begun, ("boot", "ok"), *twice("register")]
    frames = [one for one in published if one.event == "WORKSPACE_PROVISION_PROGRESS"]
    assert [one.payload["index"] for one in frames][::2] == [1, 2, 3, 4, 5, 6]
    assert {one.payload["total"] for one in frames} == {6}
    assert {one.payload["run_id"] for one in frames} == {str(run_of(row).pk)}
    assert all(one.payload["elapsed_ms"] >= 0 for one in frames)
    steps = run_of(row).steps
    assert [(step["name"], step["status"]) for step in steps] == [
        (name, "ok") for name in ("queued", "prepare", "image", "create", "boot", "register")
    ]


def test_the_steps_of_a_start_are_measured(backend, doorbell):
    tally.forget()  # what earlier tests counted
    queued()
    doorbell.work()
    tally.flush()
    text = render()
    name, rest = "molecule_provision_duration_seconds", 'runtime="langgraph",step="create"'
    assert f"# TYPE {name} histogram" in text
    assert f'{name}_count{{backend="memory",{rest}}} 1' in text
    for bound in ("1800", "+Inf"):
        assert f'{name}_bucket{{backend="memory",le="{bound}",{rest}}} 1' in text
    assert f'{name}_sum{{backend="memory",{rest}}} 0' in text
    assert 'step="boot"' not in text  # it has not booted yet


def test_a_restart_has_one_step_more(backend, doorbell, published):
    row = running(backend, doorbell)
    published.clear()
    services.accept_restart(row.pk, {})
    doorbell.work()
    assert ("stop_old", "ok") in told(published, row)
    frames = [one for one in published if one.event == "WORKSPACE_PROVISION_PROGRESS"]
    assert {one.payload["total"] for one in frames} == {7}


def test_a_failed_step_says_what_people_may_read(backend, doorbell, published):
    backend.failures["start"] = deque([BROKEN])
    queued()
    doorbell.work()
    (failed,) = [one for one in published if one.payload.get("status") == "failed"]
    assert (failed.payload["step"], failed.payload["message"]) == ("create", "workspace start failed")


def test_a_long_step_is_told_again_while_it_runs(backend, doorbell, published, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    backend.latency_s["ensure_image"] = 1.0
    row = queued()
    doorbell.work()
    assert told(published, row).count(("image", "running")) > 2
    (run,) = ProvisionRun.objects.all()
    assert [step["name"] for step in run.steps].count("image") == 1


def test_what_a_lost_worker_had_begun_is_marked_as_lost(backend, doorbell):
    run = run_of(queued())
    claimed = ledger.claim_run(run.pk)
    assert claimed
    from provisioning import progress

    progress.begin(claimed, "prepare")
    ledger.note_steps(claimed)
    ProvisionRun.objects.filter(pk=run.pk).update(lease_expires_at="2020-01-01T00:00:00Z")
    services.provision(run.pk)
    run.refresh_from_db()
    shown = [(step["name"], step["status"]) for step in run.steps]
    assert shown[:4] == [("queued", "ok"), ("prepare", "failed"), ("prepare", "ok"), ("image", "ok")]


def test_a_start_whose_agent_never_came_ends_its_boot_step(backend, doorbell, published):
    row = queued()
    doorbell.work()
    assert services.report_boot_failure(workspace_id=row.pk, error="it crashed", log_tail="")
    assert told(published, row)[-1] == ("boot", "failed")
