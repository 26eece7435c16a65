"""Promises of whole flows over HTTP, from the request to the compute."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from access.services import save_global_secret
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import ProvisionRun, RunKind
from provisioning.services import execution
from tests.clients import admin, agent_of
from tests.conftest import at_once
from tests.provisioning.conftest import heartbeat, register, running, status_of
from tests.waiting import eventually
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

STUCK = BackendError(ErrorClass.TRANSIENT, "cannot stop", detail="daemon says no", retryable=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "STOP_PAUSES_S", (0.0, 0.0))


def seven(backend: Any, doorbell: Any) -> list[Workspace]:
    """A root, two teams, two members each."""
    root = running(backend, doorbell)
    teams = [running(backend, doorbell, parent=root) for _ in range(2)]
    return [root, *teams, *(running(backend, doorbell, parent=team) for team in teams for _ in range(2))]


def test_a_tree_of_seven_is_deleted_and_what_is_owed_is_told_until_it_is_done(backend, doorbell):
    rows = seven(backend, doorbell)
    stuck = rows[-1]
    statuses_at_stop: list[str] = []

    def stop(pk: Any) -> None:
        statuses_at_stop.extend(at_once(lambda: status_of(Workspace(pk=pk))))
        if pk == stuck.pk:
            raise STUCK

    backend.before["stop"] = stop
    path = f"/workspaces/{rows[0].pk}"
    answer = admin().delete(f"{path}?confirm=true")
    assert (answer.status_code, answer.json()) == (
        500,
        {
            "error": "workspace marked removed, but 1 stop call(s) failed — please retry",
            "removed_count": 7,
            "stop_failures": 1,
        },
    )
    assert set(statuses_at_stop) == {"removed"}  # the rows went first
    assert {status_of(row) for row in rows} == {Status.REMOVED}
    assert [row.pk for row in rows if backend.running(row.pk)] == [stuck.pk]
    purge = admin().delete(f"{path}?purge=true")
    assert (purge.status_code, purge.json()["stop_failures"]) == (500, 1)
    assert Workspace.objects.filter(pk=stuck.pk).exists()  # the only pointer to its compute
    backend.before.clear()
    again = admin().delete(path)
    assert (again.status_code, again.json()) == (200, {"status": "removed", "cascade_deleted": 0})
    assert backend.list_managed() == []
    assert admin().delete(path).status_code == 200
    purge = admin().delete(f"{path}?purge=true")
    assert (purge.status_code, purge.json()) == (200, {"status": "purged", "cascade_deleted": 6})
    assert not Workspace.objects.filter(pk__in=[row.pk for row in rows]).exists()


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"tier": 1}, lambda spec: spec.tier == 1),
        ({"runtime": "claude-code"}, lambda spec: spec.runtime == "claude-code"),
        (
            {"workspace_dir": "/srv/code", "workspace_access": "read_only"},
            lambda spec: (spec.workspace_dir, spec.workspace_access) == ("/srv/code", "read_only"),
        ),
    ],
)
def test_what_needs_a_restart_says_so_and_applies_with_it(backend, doorbell, change, seen):
    row = running(backend, doorbell)
    answer = admin().patch(f"/workspaces/{row.pk}", change)
    assert answer.json() == {"status": "updated", "needs_restart": True}
    assert admin().patch(f"/workspaces/{row.pk}", change).json() == {"status": "updated"}
    assert backend.running(row.pk) == [1]
    admin().post(f"/workspaces/{row.pk}/restart")
    doorbell.work()
    assert seen(backend.specs[-1])


def test_the_servers_own_credentials_reach_no_workspace(backend, doorbell, settings, caplog):
    caplog.set_level("INFO")
    for key in ("ADMIN_TOKEN", "SECRETS_ENCRYPTION_KEY", "CP_ADMIN_API_TOKEN"):
        save_global_secret(key=key, value=f"value of {key}")
    save_global_secret(key="INNOCENT", value=settings.ADMIN_TOKEN)
    save_global_secret(key="WANTED", value="yes")
    running(backend, doorbell)
    environment = backend.specs[-1].environment
    assert environment["WANTED"] == "yes"
    assert not {"ADMIN_TOKEN", "SECRETS_ENCRYPTION_KEY", "CP_ADMIN_API_TOKEN", "INNOCENT"} & set(environment)
    (line,) = [record.message for record in caplog.records if "provision.env_denied" in record.message]
    assert "INNOCENT" in line
    assert settings.ADMIN_TOKEN not in line


def test_the_old_process_may_call_during_a_long_stop_and_changes_nothing(backend, doorbell):
    row = running(backend, doorbell)
    stopping, go_on = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        stopping.set()
        go_on.wait(30)

    backend.before["stop"] = hold
    began = time.monotonic()
    assert admin().post(f"/workspaces/{row.pk}/restart").status_code == 200
    assert time.monotonic() - began < 10  # it does not wait for the stop
    worker = threading.Thread(target=lambda: at_once(doorbell.work))
    worker.start()
    assert stopping.wait(20)
    for _ in range(5):
        heartbeat(backend.specs[0])
        register(backend.specs[0])
        assert status_of(row) == Status.PROVISIONING
    go_on.set()
    worker.join(30)
    assert register(backend.specs[-1]).status_code == 200
    assert status_of(row) == Status.ONLINE
    assert heartbeat(backend.specs[0]).status_code == 401  # its token ended with it


def test_a_pause_in_a_request_that_nobody_waits_for_is_finished(backend, doorbell):
    """A client that hangs up leaves its request running: what was claimed is stopped and announced."""
    row = running(backend, doorbell)
    entered, go_on = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        entered.set()
        go_on.wait(30)

    backend.before["stop"] = hold
    request = threading.Thread(target=lambda: at_once(lambda: admin().post(f"/workspaces/{row.pk}/pause")))
    request.start()
    assert entered.wait(20)
    assert status_of(row) == Status.PAUSED  # claimed before its stop
    go_on.set()
    eventually(lambda: backend.running(row.pk) == [], within_s=20)
    request.join(30)
    assert agent_of(row.pk).get(f"/workspaces/{row.pk}/state").json()["paused"] is True


def test_a_wake_and_a_resume_of_one_workspace_start_it_once(backend, doorbell):
    """Both are claims of one row: a sleeping one is woken, and cannot be resumed."""
    from provisioning import services

    row = running(backend, doorbell)
    admin().post(f"/workspaces/{row.pk}/hibernate")
    outcomes = at_once(*[lambda: services.wake(row.pk)] * 10)
    assert outcomes == [True] * 10
    assert admin().post(f"/workspaces/{row.pk}/resume").status_code == 404
    doorbell.work()
    assert ProvisionRun.objects.filter(workspace_id=row.pk, kind=RunKind.WAKE).count() == 1
    assert backend.running(row.pk) == [3]
