"""What operators ask and order: the table of compute, the audit, stuck starts, newer images."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from config.jobs import Job
from config.locks import try_lock
from provisioning import dispatch, ledger
from provisioning.backends.base import ComputeState, Storage
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ProvisionRun, RunState, WorkspaceLifecycle
from tests.clients import admin, agent_of
from tests.conftest import at_once
from tests.provisioning.conftest import queued, run_of, running
from tests.provisioning.machines import CONTAINERS, MACHINES, OLD, compute, ran, wired
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def cloud() -> Iterator[InMemoryBackend]:
    yield wired("cp", MACHINES)
    dispatch.choose_again()


@pytest.fixture
def engine() -> Iterator[InMemoryBackend]:
    yield wired("docker", CONTAINERS)
    dispatch.choose_again()


def told(command: str, *arguments: str) -> str:
    out = StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


def one_of_each(backend: InMemoryBackend) -> dict[str, UUID]:
    """A piece of compute, or its absence, for every verdict."""
    fine, doubled = WorkspaceFactory(name="fine"), WorkspaceFactory(generation=2)
    asleep, lost, stray = WorkspaceFactory(status=Status.PAUSED), WorkspaceFactory(), compute()
    for row in (fine, doubled, asleep):
        ran(row, row.generation)
        backend.place(compute(row.pk, row.generation))
    backend.place(compute(doubled.pk, 1))
    backend.place(stray)
    return {
        "ok": fine.pk,
        "duplicate": doubled.pk,
        "parked_running": asleep.pk,
        "missing": lost.pk,
        "orphan": stray.workspace_id,
    }


# --- GET /admin/compute


def test_all_compute_is_listed_with_what_the_rows_say_of_it(cloud):
    expected = one_of_each(cloud)
    answer = admin().get("/admin/compute")
    assert answer.status_code == 200
    found = {(one["verdict"], one["workspace_id"]): one for one in answer.json()}
    assert set(found) == {(verdict, str(pk)) for verdict, pk in expected.items()} | {
        ("ok", str(expected["duplicate"]))
    }
    fine = found["ok", str(expected["ok"])]
    assert (fine["name"], fine["status"], fine["generation"], fine["state"]) == (
        "fine",
        "online",
        1,
        "running",
    )
    assert found["orphan", str(expected["orphan"])]["name"] is None
    assert found["missing", str(expected["missing"])]["compute_id"] is None
    assert cloud.called("stop") == []


def test_what_cannot_be_listed_is_not_told_as_nothing(cloud, no_backend):
    assert admin().get("/admin/compute").status_code == 501
    dispatch.wire(cloud)
    cloud.unreachable = True
    answer = admin().get("/admin/compute")
    assert (answer.status_code, answer.json()) == (503, {"error": "compute could not be listed; try again"})


def test_compute_is_for_operators_only(cloud):
    assert agent_of(WorkspaceFactory().pk).get("/admin/compute").status_code in {401, 403}


# --- compute_audit


def test_the_audit_shows_each_verdict_and_changes_nothing(cloud):
    expected = one_of_each(cloud)
    shown = told("compute_audit")
    for verdict, workspace_id in expected.items():
        assert f"{verdict:<15} {workspace_id}" in shown
    assert "1 duplicate, 1 missing, 2 ok, 1 orphan, 1 parked_running" in shown
    assert "add --reap" in shown
    assert cloud.called("stop") == []


def test_the_audit_stops_what_nobody_wants_whatever_the_mode(cloud, settings):
    settings.COMPUTE_REAP_MODE = "report"
    expected = one_of_each(cloud)
    assert told("compute_audit", "--reap").startswith("duplicate")
    assert cloud.running(expected["orphan"]) == []
    assert cloud.running(expected["duplicate"]) == [2]
    assert (cloud.running(expected["ok"]), cloud.running(expected["parked_running"])) == ([1], [1])


def test_force_overrules_the_breaker_and_nothing_less_does(cloud):
    strays = [compute() for _ in range(6)]
    for one in strays:
        cloud.place(one)
    assert "then add --force" in told("compute_audit", "--reap")
    assert cloud.called("stop") == []
    with pytest.raises(CommandError, match="--force needs --reap"):
        told("compute_audit", "--force")
    assert "6 stopped" in told("compute_audit", "--reap", "--force")
    assert [cloud.running(one.workspace_id) for one in strays] == [[]] * 6


def test_force_removes_what_strangers_have_stored_on_an_engine(engine):
    engine.storage = [Storage(uuid4(), "ws-configs", timezone.now() - OLD) for _ in range(6)]
    assert "stored data of 6 without a row" in told("compute_audit", "--reap")
    assert len(engine.storage) == 6
    told("compute_audit", "--reap", "--force")
    assert engine.storage == []


def test_an_audit_that_cannot_list_says_so(cloud):
    cloud.unreachable = True
    with pytest.raises(CommandError, match="could not be listed"):
        told("compute_audit", "--reap")


def test_an_audit_without_a_backend_says_so(no_backend):
    with pytest.raises(CommandError, match="no backend"):
        told("compute_audit")


# --- lifecycle_unstick


def held(lease: timedelta) -> ProvisionRun:
    row = queued()
    run = ledger.claim_run(run_of(row).pk)
    assert run
    ProvisionRun.objects.filter(pk=run.pk).update(lease_expires_at=timezone.now() + lease)
    return run


def test_what_a_dead_worker_holds_is_shown_and_freed(backend, doorbell):
    run = held(timedelta(seconds=-5))
    doorbell.rung.clear()
    shown = told("lifecycle_unstick", str(run.workspace_id))
    assert str(run.lease_owner) in shown
    assert "1 put back into the queue" in shown
    assert ProvisionRun.objects.get(pk=run.pk).state == RunState.QUEUED
    assert doorbell.rung[0] == (Job.PROVISION, {"run_id": run.pk})
    doorbell.work()
    assert backend.running(run.workspace_id) == [1]


def test_what_a_living_worker_holds_is_refused(backend, doorbell):
    run = held(timedelta(seconds=20))
    with pytest.raises(CommandError, match="the worker lives"):
        told("lifecycle_unstick", str(run.workspace_id))
    assert ProvisionRun.objects.get(pk=run.pk).lease_owner == run.lease_owner


def test_a_workspace_that_somebody_stops_now_is_refused_with_their_session(backend, doorbell):
    run = held(timedelta(seconds=-5))
    with try_lock(f"ws-lifecycle:{run.workspace_id}"):
        with pytest.raises(CommandError, match=r"by database session \d+"):
            told("lifecycle_unstick", str(run.workspace_id))
    assert ProvisionRun.objects.get(pk=run.pk).state == RunState.RUNNING


def test_of_two_who_free_a_lease_at_once_one_does(backend, doorbell):
    run = held(timedelta(seconds=-5))
    assert sorted(at_once(*[lambda: ledger.free_dead_lease(run)] * 2)) == [False, True]


def test_a_workspace_nobody_holds_is_told_and_what_waits_is_rung_for(backend, doorbell):
    row = WorkspaceFactory()
    WorkspaceLifecycle.objects.create(workspace=row, restart_pending=True)
    assert "Nobody holds" in told("lifecycle_unstick", str(row.pk))
    assert doorbell.rung == [(Job.RESTART_CYCLE, {"workspace_id": row.pk})]


# --- POST /admin/workspace-images/refresh


def refresh(query: str = ""):
    return admin().post(f"/admin/workspace-images/refresh{query}")


def test_a_newer_image_restarts_exactly_its_runtime_and_the_busy_wait(engine, doorbell):
    idle, busy = running(engine, doorbell), running(engine, doorbell)
    other = running(engine, doorbell, runtime="codex")
    Workspace.objects.filter(pk=busy.pk).update(active_tasks=1)
    answer = refresh("?runtime=langgraph")
    assert answer.status_code == 200
    assert answer.json() == {
        "pulled": ["langgraph"],
        "failed": [],
        "recreated": [f"ws-{idle.pk}"],
        "deferred": [f"ws-{busy.pk}"],
    }
    assert refresh("?runtime=langgraph&force=true").json()["recreated"] == [f"ws-{idle.pk}", f"ws-{busy.pk}"]
    assert not WorkspaceLifecycle.objects.filter(pk=other.pk, restart_pending=True).exists()


def test_without_recreate_nothing_is_restarted(engine, doorbell):
    running(engine, doorbell)
    assert refresh("?runtime=langgraph&recreate=false").json()["recreated"] == []


def test_one_runtime_that_fails_does_not_stop_the_others(engine):
    engine.missing_images = {"codex"}
    answer = refresh().json()
    assert answer["failed"] == ["codex"]
    assert len(answer["pulled"]) == 8


def test_an_unknown_runtime_is_answered_with_the_known_ones(engine):
    answer = refresh("?runtime=external")
    assert answer.status_code == 400
    assert "codex" in answer.json()["known_runtimes"]
    assert engine.called("refresh_image") == []


def test_a_deployment_without_images_says_so(cloud):
    assert refresh().status_code == 501


def test_containers_that_cannot_be_listed_are_an_error_with_what_was_done(engine):
    engine.unreachable = True
    answer = refresh("?runtime=codex")
    assert answer.status_code == 500
    assert answer.json()["partial_result"]["pulled"] == ["codex"]


def test_a_stopped_container_is_left_alone(engine, doorbell):
    row = running(engine, doorbell)
    engine.change(row.pk, state=ComputeState.NOT_RUNNING)
    assert refresh("?runtime=langgraph").json()["recreated"] == []
