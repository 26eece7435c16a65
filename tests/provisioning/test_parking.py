"""Pause, resume, hibernate: as routes, against compute in memory."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest

from activity.models import StructureEvent
from config.locks import try_lock
from provisioning import dispatch, services
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import RunState
from provisioning.services import execution, parking, stops
from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.provisioning.conftest import heartbeat, queued, register, run_of, running, slow_start, status_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, Workspace
from workspaces.services import transitions

pytestmark = pytest.mark.django_db(transaction=True)

STUCK = BackendError(ErrorClass.TRANSIENT, "cannot stop", detail="daemon says no", retryable=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "STOP_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(stops, "LOCK_WAIT_S", 0.2)


def tree(backend: Any, doorbell: Any) -> list[Workspace]:
    """Root, child, grandchild, all online."""
    root = running(backend, doorbell)
    child = running(backend, doorbell, parent=root)
    return [root, child, running(backend, doorbell, parent=child)]


def names(event_type: str) -> list[str]:
    found = StructureEvent.objects.filter(event_type=event_type).order_by("seq")
    return [event.payload.get("name") for event in found]


def test_pausing_a_tree_stops_and_parks_all_of_it(backend, doorbell, valkey):
    rows = tree(backend, doorbell)
    assert valkey.keys("ws:*")
    answer = admin().post(f"/workspaces/{rows[0].pk}/pause")
    assert (answer.status_code, answer.json()) == (200, {"status": "paused", "paused_count": 3})
    for row in rows:
        row.refresh_from_db()
        assert (row.status, row.url, row.generation, backend.running(row.pk)) == (Status.PAUSED, "", 2, [])
    assert sorted(names("WORKSPACE_PAUSED")) == sorted(row.name for row in rows)
    left = {key.decode().split(":", 2)[-1] for row in rows for key in valkey.keys(f"ws:{row.pk}*")}
    assert left <= {"sign"}  # when somebody last heard of it; the news of the pause is such a time
    again = admin().post(f"/workspaces/{rows[0].pk}/pause")
    assert (again.status_code, again.json()) == (404, {"error": "workspace not found or already paused"})


def test_cascade_false_pauses_the_named_one_only(backend, doorbell):
    rows = tree(backend, doorbell)
    assert admin().post(f"/workspaces/{rows[0].pk}/pause?cascade=false").json()["paused_count"] == 1
    assert [status_of(row) for row in rows] == ["paused", "online", "online"]


def test_a_dry_run_lists_and_changes_nothing(backend, doorbell):
    rows = tree(backend, doorbell)
    body = admin().post(f"/workspaces/{rows[1].pk}/pause?dry_run=true").json()
    assert [one["name"] for one in body["workspaces"]] == [rows[1].name, rows[2].name]
    assert [status_of(row) for row in rows] == ["online"] * 3


def test_the_row_is_claimed_before_its_compute_is_stopped(backend, doorbell):
    row = running(backend, doorbell)
    seen: list[str] = []
    backend.before["stop"] = lambda pk: seen.append(_status_in_a_thread(pk))
    admin().post(f"/workspaces/{row.pk}/pause")
    assert seen == ["paused"]


def _status_in_a_thread(pk: Any) -> str:
    from django.db import connection

    status = Workspace.objects.values_list("status", flat=True).get(pk=pk)
    connection.close()
    return str(status)


def test_a_failed_stop_leaves_the_row_as_it_was_and_is_named(backend, doorbell):
    rows = tree(backend, doorbell)
    backend.before["stop"] = lambda pk: _raise() if pk == rows[1].pk else None
    answer = admin().post(f"/workspaces/{rows[0].pk}/pause")
    assert answer.status_code == 207
    assert answer.json() == {
        "status": "paused",
        "paused_count": 2,
        "failures": [{"workspace_id": str(rows[1].pk), "stage": "stop"}],
    }
    assert [status_of(row) for row in rows] == ["paused", "online", "paused"]
    assert backend.running(rows[1].pk) == [1]
    assert heartbeat(backend.specs[1]).status_code == 200
    assert names("WORKSPACE_PAUSED") == [rows[0].name, rows[2].name] or len(names("WORKSPACE_PAUSED")) == 2


def _raise() -> None:
    raise STUCK


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_of_many_who_ask_at_once_one_acts_and_the_others_are_told(verb, backend, doorbell):
    row = running(backend, doorbell)
    if verb == "resume":
        admin().post(f"/workspaces/{row.pk}/pause")
    answers = at_once(*[lambda: admin().post(f"/workspaces/{row.pk}/{verb}")] * 5)
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404, 404]
    row.refresh_from_db()
    assert row.status == (Status.PAUSED if verb == "pause" else Status.PROVISIONING)


def test_when_nothing_could_be_stopped_the_answer_is_a_500(backend, doorbell):
    row = running(backend, doorbell)
    backend.failures["stop"] = deque([STUCK] * 3)
    answer = admin().post(f"/workspaces/{row.pk}/pause")
    assert answer.status_code == 500
    assert answer.json()["failures"] == [{"workspace_id": str(row.pk), "stage": "stop"}]
    assert "daemon" not in answer.content.decode()


def test_a_pause_during_a_slow_start_stands_and_the_start_cleans_up(backend, doorbell):
    row = queued()
    with slow_start(backend, row):
        assert admin().post(f"/workspaces/{row.pk}/pause").status_code == 200
    assert (status_of(row), backend.running(row.pk)) == (Status.PAUSED, [])
    assert run_of(row, 1).state == RunState.SUPERSEDED
    assert len(names("WORKSPACE_PAUSED")) == 1


def test_resume_starts_the_paused_ones_parents_first(backend, doorbell):
    rows = tree(backend, doorbell)
    admin().post(f"/workspaces/{rows[0].pk}/pause")
    StructureEvent.objects.all().delete()
    answer = admin().post(f"/workspaces/{rows[0].pk}/resume")
    assert (answer.status_code, answer.json()) == (200, {"status": "provisioning", "resumed_count": 3})
    assert names("WORKSPACE_PROVISIONING") == [row.name for row in rows]
    doorbell.work()
    assert [backend.running(row.pk) for row in rows] == [[3]] * 3
    assert run_of(rows[0], 3).kind == "resume"
    assert register(backend.specs[-1]).status_code == 200


def test_resume_below_a_paused_ancestor_is_refused(backend, doorbell):
    rows = tree(backend, doorbell)
    admin().post(f"/workspaces/{rows[0].pk}/pause")
    for route in ("resume", "restart"):
        answer = admin().post(f"/workspaces/{rows[2].pk}/{route}")
        assert answer.status_code == 409
        assert answer.json() == {"error": f'parent workspace "{rows[1].name}" is paused — resume it first'}


def test_of_two_simultaneous_resumes_one_starts_compute(backend, doorbell):
    row = running(backend, doorbell)
    admin().post(f"/workspaces/{row.pk}/pause")
    outcomes = at_once(*[lambda: services.resume(row.pk, cascade=True, dry_run=False)] * 2)
    doorbell.work()
    assert len(backend.specs) == 2
    assert backend.running(row.pk) == [3]
    moved = [len(outcome.moved) if isinstance(outcome, parking.Result) else 0 for outcome in outcomes]
    assert sorted(moved) == [0, 1]


def test_resume_reaches_only_what_is_paused_up_to_the_root(backend, doorbell):
    rows = tree(backend, doorbell)
    Workspace.objects.filter(pk__in=[rows[0].pk, rows[2].pk]).update(status=Status.PAUSED)
    assert services.resume(rows[0].pk, cascade=True, dry_run=True).moved == [rows[0].pk]


def test_an_external_workspace_waits_for_its_agent_after_resume(no_backend, doorbell):
    row = WorkspaceFactory(runtime=EXTERNAL, url="https://agent.example")
    token = agent_of(row.pk)
    assert token.post(f"/workspaces/{row.pk}/pause").status_code == 200
    answer = token.post(f"/workspaces/{row.pk}/resume")
    assert answer.json() == {"status": "awaiting_agent", "resumed_count": 1}
    event = StructureEvent.objects.get(event_type="WORKSPACE_AWAITING_AGENT")
    assert event.payload == {"name": row.name, "external": True}
    assert token.get(f"/workspaces/{row.pk}/provision-runs").status_code == 200  # no token was touched


@pytest.mark.parametrize("route", ["restart", "pause", "resume", "hibernate"])
def test_lifecycle_routes_need_a_credential_and_a_living_workspace(backend, doorbell, route):
    row = WorkspaceFactory()
    assert anonymous().post(f"/workspaces/{row.pk}/{route}").status_code == 401
    other = WorkspaceFactory()
    assert agent_of(other.pk).post(f"/workspaces/{row.pk}/{route}").status_code == 401
    Workspace.objects.filter(pk=row.pk).update(status=Status.REMOVED)
    answer = admin().post(f"/workspaces/{row.pk}/{route}")
    assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})
    bad = admin().post(f"/workspaces/nonsense/{route}")
    assert (bad.status_code, bad.json()) == (400, {"error": "invalid workspace ID"})


def test_hibernation_needs_an_idle_workspace_or_force(backend, doorbell):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(active_tasks=2)
    answer = admin().post(f"/workspaces/{row.pk}/hibernate")
    assert answer.status_code == 409
    assert answer.json() == {
        "error": "workspace has active tasks; use ?force=true to terminate them",
        "active_tasks": 2,
    }
    assert backend.running(row.pk) == [1]
    answer = admin().post(f"/workspaces/{row.pk}/hibernate?force=true")
    assert (answer.status_code, answer.json()) == (200, {"status": "hibernated"})
    row.refresh_from_db()
    assert (row.status, row.url, row.active_tasks, row.current_task) == (Status.HIBERNATED, "", 0, "")
    assert backend.running(row.pk) == []
    event = StructureEvent.objects.get(event_type="WORKSPACE_HIBERNATED")
    assert event.payload == {"name": row.name, "tier": 3}


def test_a_hibernation_whose_stop_fails_is_undone(backend, doorbell):
    row = running(backend, doorbell)
    backend.failures["stop"] = deque([STUCK] * 3)
    assert admin().post(f"/workspaces/{row.pk}/hibernate").status_code == 502
    assert (status_of(row), backend.running(row.pk)) == (Status.ONLINE, [1])


def test_a_hibernation_whose_stop_takes_too_long_is_not_undone(backend, doorbell, monkeypatch):
    row = running(backend, doorbell)
    go_on = threading.Event()
    monkeypatch.setattr(parking, "HIBERNATE_BUDGET_S", 0.1)
    backend.before["stop"] = lambda _: go_on.wait(10)
    assert admin().post(f"/workspaces/{row.pk}/hibernate").status_code == 502
    assert status_of(row) == Status.HIBERNATING
    go_on.set()


def test_a_pause_leaves_the_start_of_a_later_resume_alone(backend, doorbell):
    row = queued()
    claim = transitions.claim_pause(row.pk)
    assert claim
    Workspace.objects.filter(pk=row.pk).update(generation=3)
    row.refresh_from_db()
    dispatch.provision_async(row)
    Workspace.objects.filter(pk=row.pk).update(generation=2)
    assert parking.finish_pause(row.pk, 2, had_url=False)
    assert [run_of(row, one).state for one in (1, 3)] == [RunState.CANCELLED, RunState.QUEUED]


def test_a_pause_is_not_announced_before_its_starts_are_cancelled(backend, doorbell, monkeypatch):
    row = queued()
    transitions.claim_pause(row.pk)
    monkeypatch.setattr(parking.ledger, "cancel_runs", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        parking.finish_pause(row.pk, 2, had_url=False)
    assert names("WORKSPACE_PAUSED") == []


def test_only_what_is_online_can_hibernate_and_nothing_external(backend, doorbell):
    offline = WorkspaceFactory(status=Status.OFFLINE)
    answer = admin().post(f"/workspaces/{offline.pk}/hibernate")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "workspace not found or not in a hibernatable state (must be online or degraded)"
    }
    assert admin().post(f"/workspaces/{WorkspaceFactory(runtime=EXTERNAL).pk}/hibernate").status_code == 400


@pytest.mark.parametrize("status", [Status.PAUSED, Status.HIBERNATING, Status.HIBERNATED])
def test_late_calls_of_the_stopped_agent_change_no_parked_row(backend, doorbell, status):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(status=status, url="", generation=2)
    heartbeat(backend.specs[0])
    register(backend.specs[0])
    after = Workspace.objects.get(pk=row.pk)
    assert (after.status, after.url) == (status, "")


@pytest.mark.parametrize("body", [None, "", "not json", "[1]", '{"reset": true}'])
def test_a_restart_takes_any_body(backend, doorbell, body):
    row = running(backend, doorbell)
    client = admin()._client
    answer = client.post(f"/workspaces/{row.pk}/restart", body or "", content_type="text/plain")
    wants_reset = body == '{"reset": true}'
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "provisioning", "config_dir": "existing-volume", "reset_session": wants_reset},
    )


def test_an_external_restart_is_a_noop(no_backend, doorbell):
    row = WorkspaceFactory(runtime=EXTERNAL)
    answer = agent_of(row.pk).post(f"/workspaces/{row.pk}/restart")
    assert (answer.status_code, answer.json()["status"], answer.json()["runtime"]) == (
        200,
        "noop",
        "external",
    )
    assert status_of(row) == Status.ONLINE


def test_a_restart_answers_while_the_stop_takes_its_time(backend, doorbell):
    row = running(backend, doorbell)
    backend.latency_s["stop"] = 60.0
    assert (
        admin().post(f"/workspaces/{row.pk}/restart").status_code == 200
    )  # the test's own timeout is the judge
    assert status_of(row) == Status.PROVISIONING


def test_runs_are_listed_newest_first_without_what_only_operators_of_the_server_see(backend, doorbell):
    row = running(backend, doorbell)
    services.accept_restart(row.pk, {})
    doorbell.work()
    runs = agent_of(row.pk).get(f"/workspaces/{row.pk}/provision-runs").json()
    assert [(run["generation"], run["kind"], run["state"]) for run in runs] == [
        (2, "restart", "started"),
        (1, "create", "succeeded"),
    ]
    assert not {"error_detail", "lease_owner", "options"} & set(runs[0])
    begun = ["queued", "prepare", "image", "stop_old", "create", "boot"]
    assert [step["name"] for step in runs[0]["steps"]] == begun


def test_a_start_that_waits_for_a_stop_is_rung_for_when_it_ends(backend, doorbell):
    row = running(backend, doorbell)
    entered, go_on = threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        entered.set()
        go_on.wait(10)

    backend.before["stop"] = slow
    pausing = threading.Thread(
        target=lambda: at_once(lambda: services.pause(row.pk, cascade=True, dry_run=False))
    )
    pausing.start()
    assert entered.wait(10)
    services.resume(row.pk, cascade=True, dry_run=False)
    doorbell.work()  # the worker finds the lock taken by the stop
    assert run_of(row, 3).state == RunState.QUEUED
    go_on.set()
    pausing.join(20)
    doorbell.work()
    assert (run_of(row, 3).state, backend.running(row.pk)) == (RunState.STARTED, [3])


def test_the_lock_is_free_again_after_each_verb(backend, doorbell):
    row = running(backend, doorbell)
    services.pause(row.pk, cascade=True, dry_run=False)
    with try_lock(f"ws-lifecycle:{row.pk}") as mine:
        assert mine
