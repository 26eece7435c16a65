"""One run, from its claim to its end."""

from __future__ import annotations

import json
from collections import deque
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from access.models import TokenKind, WorkspaceAuthToken
from access.services import mint_token, store_secrets
from activity.models import StructureEvent
from provisioning import dispatch, ledger, services
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.leases import lifecycle_turn
from provisioning.models import ProvisionRun, RunState, WorkspaceLifecycle
from provisioning.services import execution
from tests.conftest import at_once
from tests.provisioning.conftest import heartbeat, queued, register, run_of, running, status_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, Workspace
from workspaces.services import transitions
from workspaces.services.crud import NewWorkspace, create_workspace

pytestmark = pytest.mark.django_db(transaction=True)

BROKEN = BackendError(ErrorClass.BOOT_FAILED, "workspace start failed", detail="the secret reason")
FLAKY = BackendError(ErrorClass.TRANSIENT, "try again", detail="503", retryable=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "STOP_PAUSES_S", (0.0, 0.0))


def events_of(row: Workspace) -> list[tuple[str, dict[str, Any]]]:
    return list(
        StructureEvent.objects.filter(workspace_id=row.pk)
        .order_by("seq")
        .values_list("event_type", "payload")
    )


def test_a_start_ends_online_once_its_agent_registers(backend, doorbell):
    row = queued()
    assert run_of(row).state == RunState.QUEUED
    doorbell.work()
    run = run_of(row)
    assert (run.state, run.backend, run.attempts) == (RunState.STARTED, "memory", 1)
    assert run.compute_id
    assert [step["name"] for step in run.steps] == ["queued", "prepare", "image", "create", "boot"]
    assert [step["status"] for step in run.steps] == ["ok"] * 4 + ["running"]
    row.refresh_from_db()
    assert (row.url, row.url_source) == (f"http://127.0.0.1:9/{row.pk}", "platform")
    assert register(backend.specs[0]).status_code == 200
    assert status_of(row) == Status.ONLINE
    assert run_of(row).state == RunState.SUCCEEDED


def test_the_agent_may_register_before_its_start_is_stored(backend, doorbell):
    row = queued()
    real = backend.start

    def start_and_register(spec):
        started = real(spec)
        assert register(spec).status_code == 200
        return started

    backend.start = start_and_register
    doorbell.work()
    assert status_of(row) == Status.ONLINE
    assert (run_of(row).state, bool(run_of(row).compute_id)) == (RunState.SUCCEEDED, True)
    assert Workspace.objects.get(pk=row.pk).url == f"http://127.0.0.1:9/{row.pk}"


def test_a_message_delivered_twice_starts_once(backend, doorbell):
    run = run_of(queued())
    at_once(*[lambda: services.provision(run.pk)] * 4)
    assert len(backend.called("start")) == 1
    run.refresh_from_db()
    assert (run.state, run.attempts) == (RunState.STARTED, 1)


def test_tokens_of_older_generations_end_and_those_of_people_stay(backend, doorbell):
    row = running(backend, doorbell)
    by_hand = mint_token(workspace_id=row.pk, kind=TokenKind.API)
    services.request_restart(row.pk, services.Trigger.MUTATION, "test")
    doorbell.work()
    live = WorkspaceAuthToken.objects.live().filter(workspace=row)
    assert sorted(live.values_list("kind", "generation")) == [("api", None), ("instance", 2)]
    assert by_hand[:8] in live.values_list("prefix", flat=True)


def test_a_token_that_an_earlier_try_may_have_delivered_stays_valid(backend, doorbell):
    backend.failures["start"] = deque([FLAKY])
    row = queued()
    doorbell.work()
    services.provision(run_of(row).pk)
    live = WorkspaceAuthToken.objects.live().filter(workspace=row)
    assert list(live.values_list("kind", "generation")) == [("instance", 1)] * 2


def test_a_start_that_cannot_work_fails_with_a_safe_text(backend, doorbell):
    backend.failures["start"] = deque([BROKEN])
    row = queued()
    doorbell.work()
    row.refresh_from_db()
    assert (row.status, row.last_sample_error) == (Status.FAILED, "workspace start failed")
    run = run_of(row)
    assert (run.state, run.error_class, run.error_detail) == (
        RunState.FAILED,
        "boot_failed",
        "the secret reason",
    )
    assert events_of(row) == [("WORKSPACE_PROVISION_FAILED", {"error": "workspace start failed"})]


def test_an_unforeseen_error_fails_the_run_without_its_text(backend, doorbell):
    backend.before["start"] = lambda _: 1 / 0
    row = queued()
    doorbell.work()
    row.refresh_from_db()
    assert (row.status, row.last_sample_error) == (Status.FAILED, "internal error while provisioning")
    assert "ZeroDivisionError" in (run_of(row).error_detail or "")


def test_a_passing_error_is_tried_again_by_the_sweep_and_not_more_than_five_times(backend, doorbell):
    backend.failures["start"] = deque([FLAKY] * 9)
    row = queued()
    doorbell.work()
    for attempt in range(1, 5):
        run = run_of(row)
        assert (run.state, run.attempts, status_of(row)) == (RunState.QUEUED, attempt, Status.PROVISIONING)
        services.provision(run.pk)
    assert (run_of(row).state, run_of(row).attempts) == (RunState.FAILED, 5)
    assert status_of(row) == Status.FAILED


def test_a_second_try_succeeds_within_the_deadline_of_the_first(backend, doorbell):
    backend.failures["start"] = deque([FLAKY])
    row = queued()
    doorbell.work()
    deadline = Workspace.objects.get(pk=row.pk).provision_deadline_at
    services.provision(run_of(row).pk)
    row.refresh_from_db()
    assert run_of(row).state == RunState.STARTED
    assert row.provision_deadline_at == deadline
    assert timedelta(seconds=590) < deadline - timezone.now() <= timedelta(seconds=600)


def test_a_run_past_its_deadline_is_not_tried_again(backend, doorbell):
    backend.failures["start"] = deque([FLAKY])
    backend.before["start"] = lambda pk: Workspace.objects.filter(pk=pk).update(provision_deadline_at=Now())
    row = queued()
    doorbell.work()
    assert status_of(row) == Status.FAILED


def test_a_worker_that_died_is_taken_over_and_its_compute_adopted(backend, doorbell, caplog):
    row = queued()
    run = ledger.claim_run(run_of(row).pk)
    assert run
    spec = execution.prepare(row, run)
    backend.start(spec)  # and then the worker dies, before anything is stored
    services.provision(run.pk)
    assert run_of(row).state == RunState.RUNNING  # its lease still counts
    ProvisionRun.objects.filter(pk=run.pk).update(lease_expires_at=Now() - timedelta(seconds=1))
    services.provision(run.pk)
    assert (run_of(row).state, run_of(row).attempts) == (RunState.STARTED, 2)
    assert backend.running(row.pk) == [1]
    assert len(backend.specs) == 1
    assert f'evt: provision.adopted {{"compute_id": "memory-{row.pk}-g1"' in caplog.text


@pytest.mark.parametrize("method", ["ensure_image", "start"])
def test_a_run_overtaken_by_a_newer_generation_stops_what_it_started(backend, doorbell, method):
    row = queued()
    backend.before[method] = lambda pk: Workspace.objects.filter(pk=pk, generation=1).update(generation=2)
    doorbell.work()
    assert run_of(row, 1).state == RunState.SUPERSEDED
    assert backend.running(row.pk) == []
    assert backend.called("stop")[-1].generation == 2
    assert Workspace.objects.get(pk=row.pk).url in (None, "")
    assert events_of(row) == []


def test_a_run_whose_lease_was_taken_over_leaves_the_compute_to_the_other(backend, doorbell):
    row = queued()
    backend.before["start"] = lambda pk: ProvisionRun.objects.filter(workspace_id=pk).update(
        lease_owner="other"
    )
    doorbell.work()
    run = run_of(row)
    assert (run.state, run.lease_owner) == (RunState.RUNNING, "other")
    assert backend.running(row.pk) == [1]
    assert backend.called("stop") == []


def test_the_old_process_cannot_bring_a_restarting_row_online(backend, doorbell):
    row = running(backend, doorbell)
    old = backend.specs[0]
    assert services.accept_restart(row.pk, {})
    heartbeat(old)
    register(old)
    assert status_of(row) == Status.PROVISIONING
    doorbell.work()
    heartbeat(old)
    assert status_of(row) == Status.PROVISIONING
    assert register(backend.specs[-1]).status_code == 200
    assert status_of(row) == Status.ONLINE


def test_an_image_that_cannot_be_had_declines_the_restart(backend, doorbell, caplog):
    row = running(backend, doorbell)
    url = Workspace.objects.get(pk=row.pk).url
    backend.failures["ensure_image"] = deque(
        [BackendError(ErrorClass.IMAGE_UNAVAILABLE, "the image is missing")]
    )
    services.accept_restart(row.pk, {})
    caplog.clear()
    doorbell.work()
    row.refresh_from_db()
    assert (row.status, row.url, row.last_sample_error) == (Status.ONLINE, url, "the image is missing")
    assert backend.running(row.pk) == [1]
    assert backend.called("stop") == []
    assert "restart.pre_stop" not in caplog.text
    event, payload = events_of(row)[-1]
    assert event == "WORKSPACE_RESTART_DECLINED"
    assert (payload["reason"], payload["error"]) == ("image_prewarm_declined", "the image is missing")
    assert run_of(row).state == RunState.FAILED
    assert heartbeat(backend.specs[0]).status_code == 200


def test_an_image_that_cannot_be_had_fails_a_restart_when_nothing_serves(backend, doorbell):
    row = running(backend, doorbell)
    backend.kill(row.pk)
    backend.failures["ensure_image"] = deque(
        [BackendError(ErrorClass.IMAGE_UNAVAILABLE, "the image is missing")]
    )
    services.accept_restart(row.pk, {})
    doorbell.work()
    assert status_of(row) == Status.FAILED


def test_a_stop_that_fails_twice_is_tried_a_third_time(backend, doorbell, caplog):
    row = running(backend, doorbell)
    backend.failures["stop"] = deque([FLAKY, FLAKY])
    services.accept_restart(row.pk, {})
    doorbell.work()
    assert len(backend.called("stop")) == 3
    assert "LEAK-SUSPECT" not in caplog.text
    assert backend.running(row.pk) == [2]


def test_a_stop_that_never_works_is_owed_and_the_restart_goes_on(backend, doorbell, caplog):
    row = running(backend, doorbell)
    backend.failures["stop"] = deque([FLAKY] * 3)
    services.accept_restart(row.pk, {})
    caplog.clear()
    doorbell.work()
    assert caplog.text.count("LEAK-SUSPECT") == 1
    assert "evt: restart.stop_exhausted" in caplog.text
    assert run_of(row, 2).state == RunState.STARTED
    row.refresh_from_db()
    assert row.lifecycle.stop_below_generation == 2


def test_before_the_stop_the_backend_is_named_in_the_log(backend, doorbell, caplog):
    row = running(backend, doorbell)
    services.accept_restart(row.pk, {})
    doorbell.work()
    fields = json.dumps({"backend": "memory", "workspace_id": str(row.pk)}, sort_keys=True)
    assert f"evt: restart.pre_stop {fields}" in caplog.text


def test_a_first_boot_and_a_later_restart_get_the_same_environment(backend, doorbell):
    parent = running(backend, doorbell)
    row = running(backend, doorbell, role="Writes menus", parent=parent)
    store_secrets(workspace_id=row.pk, values={"MODEL_PROVIDER": "openai:gpt-4.1"})
    services.accept_restart(row.pk, {})
    doorbell.work()
    first, second = backend.specs[1].environment, backend.specs[2].environment
    assert second["MOLECULE_AGENT_ROLE"] == "Writes menus"
    assert second["PARENT_ID"] == str(parent.pk)
    assert second["MODEL"] == "openai:gpt-4.1"
    assert {**first, "MODEL": second["MODEL"], "MODEL_PROVIDER": second["MODEL"]} == second


def test_without_a_queue_message_the_run_is_still_the_work(backend, doorbell):
    row = queued()
    doorbell.rung.clear()
    assert dispatch.has_provisioner()
    services.provision(run_of(row).pk)
    assert run_of(row).state == RunState.STARTED


def test_a_worker_told_to_stop_hands_its_run_back(backend, doorbell):
    from provisioning.leases import ToldToStop

    row = queued()

    def told(_: object) -> None:
        raise ToldToStop

    backend.before["start"] = told
    run = run_of(row)
    with pytest.raises(ToldToStop):
        services.provision(run.pk)
    run.refresh_from_db()
    assert (run.state, run.attempts, run.lease_owner) == (RunState.QUEUED, 0, None)
    assert status_of(row) == Status.PROVISIONING
    backend.before.clear()
    services.provision(run.pk)
    assert run_of(row).state == RunState.STARTED


def lose_connection() -> None:
    connection.ensure_connection()
    connection.connection.close()


def test_a_start_that_lost_its_connection_is_tried_again(backend, doorbell):
    row = queued()
    backend.before["start"] = lambda _: lose_connection()
    doorbell.work()
    assert (run_of(row).state, run_of(row).error_class) == (RunState.QUEUED, "transient")
    backend.before.clear()
    services.provision(run_of(row).pk)
    run = run_of(row)
    assert (run.state, run.error_class, run.error_safe, run.error_detail) == ("started", None, None, None)


def test_what_was_started_is_recorded_over_a_new_connection(backend, doorbell, monkeypatch):
    row = queued()
    real, lost = ledger.note_compute, []

    def note(run: ProvisionRun, compute_id: str) -> None:
        if not lost:
            lost.append(run)
            lose_connection()
        real(run, compute_id)

    monkeypatch.setattr(ledger, "note_compute", note)
    doorbell.work()
    assert (run_of(row).state, run_of(row).attempts, len(lost)) == (RunState.STARTED, 1, 1)


def test_after_a_lost_connection_those_who_wait_are_still_rung_for(backend, doorbell):
    row = queued()
    doorbell.rung.clear()
    with pytest.raises(ZeroDivisionError), lifecycle_turn(row.pk):
        lose_connection()
        raise ZeroDivisionError
    assert [ids for _, ids in doorbell.rung] == [{"run_id": run_of(row).pk}]


def test_a_run_handed_back_does_not_get_a_new_clock(backend, doorbell):
    row = queued()
    deadline = timezone.now() + timedelta(seconds=100)
    ProvisionRun.objects.update(steps=[{"name": "prepare", "status": "failed", "duration_ms": 1}])
    Workspace.objects.filter(pk=row.pk).update(provision_deadline_at=deadline)
    doorbell.work()
    assert Workspace.objects.get(pk=row.pk).provision_deadline_at == deadline


def test_the_clock_starts_when_the_first_worker_died_before_it_began(backend, doorbell):
    row = queued()
    ProvisionRun.objects.update(attempts=1)
    doorbell.work()
    services.provision(run_of(row).pk)
    deadline = Workspace.objects.get(pk=row.pk).provision_deadline_at
    assert deadline
    assert deadline - timezone.now() <= timedelta(seconds=600)


def test_a_new_managed_workspace_may_wait_an_hour_for_its_worker(valkey):
    row = create_workspace(NewWorkspace(name="new", runtime="langgraph")).workspace
    assert row.provision_deadline_at
    assert timedelta(seconds=3590) < row.provision_deadline_at - timezone.now() <= timedelta(hours=1)
    external = create_workspace(NewWorkspace(name="other", runtime=EXTERNAL)).workspace
    assert external.provision_deadline_at is None


def test_an_owed_stop_is_never_lowered(valkey):
    row = WorkspaceFactory()
    for bound in (3, 2):
        execution.owe_stop(row.pk, bound)
    assert WorkspaceLifecycle.objects.get(pk=row.pk).stop_below_generation == 3


def test_the_cached_address_is_forgotten_after_the_row_lost_it(monkeypatch, valkey):
    row = WorkspaceFactory(url="http://127.0.0.1:9")
    seen: list[str | None] = []
    monkeypatch.setattr(
        transitions,
        "forget",
        lambda pk: seen.append(Workspace.objects.values_list("url", flat=True).get(pk=pk)),
    )
    assert transitions.clear_address(row.pk, row.generation)
    assert seen == [""]


def test_a_folder_named_by_a_secret_is_judged_like_the_rows_own(backend, doorbell):
    row = queued()
    store_secrets(workspace_id=row.pk, values={"WORKSPACE_DIR": "//etc"})
    doorbell.work()
    row.refresh_from_db()
    assert (row.status, backend.specs) == (Status.FAILED, [])
    assert row.last_sample_error == "the workspace directory is not one that may be shared"
