"""Containers, stored data and tokens that no row wants, on an engine of this host."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from a2a.models import QueueItem
from access.models import TokenKind, WorkspaceAuthToken
from access.services import mint_token
from provisioning import dispatch
from provisioning.backends.base import Storage
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ComputeScan, ProvisionRun, WorkspaceLifecycle
from provisioning.services import sweeps, teardown_run
from provisioning.services.images import refresh_images
from tests.provisioning.conftest import queued, run_of, running, status_of
from tests.provisioning.machines import CONTAINERS, OLD, YOUNG, compute, ran, wired
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def engine() -> Iterator[InMemoryBackend]:
    yield wired("docker", CONTAINERS)
    dispatch.choose_again()


def now():
    return timezone.now()


def stored(age: timedelta, workspace_id=None) -> Storage:
    workspace_id = workspace_id or uuid4()
    return Storage(workspace_id, f"ws-{workspace_id}-configs", now() - age)


def idle_token(row: Workspace, kind=TokenKind.INSTANCE, minutes: int = 6) -> None:
    mint_token(workspace_id=row.pk, kind=kind, generation=1)
    then = now() - timedelta(minutes=minutes)
    WorkspaceAuthToken.objects.filter(workspace_id=row.pk).update(created_at=then)


def live_tokens(row: Workspace) -> int:
    return WorkspaceAuthToken.objects.live().filter(workspace_id=row.pk).count()


def test_containers_and_data_without_a_row_go_when_old_and_others_stay(engine):
    row = WorkspaceFactory(status=Status.HIBERNATED)
    stray, young, kept = compute(), compute(age=YOUNG), stored(OLD, row.pk)
    engine.place(stray)
    engine.place(young)
    engine.storage = [kept, stored(OLD), stored(YOUNG), stored(OLD, stray.workspace_id)]
    sweeps.sweep_containers(now())
    assert (engine.running(stray.workspace_id), engine.running(young.workspace_id)) == ([], [1])
    assert len(engine.storage) == 2
    assert kept in engine.storage


def test_what_a_removal_keeps_is_no_orphan_and_outlives_the_sweep_of_its_container(engine):
    row = WorkspaceFactory(status=Status.REMOVED, storage_kept=True)
    engine.place(compute(row.pk))
    kept = stored(OLD, row.pk)
    engine.storage = [kept]
    sweeps.sweep_containers(now())
    sweeps.clean_up(now())
    teardown_run(ProvisionRun.objects.get(workspace_id=row.pk).pk)
    assert engine.running(row.pk) == []
    sweeps.sweep_containers(now())
    assert engine.storage == [kept]


def test_data_stays_when_its_container_cannot_be_stopped(engine):
    stray = compute()
    engine.place(stray)
    engine.storage = [stored(OLD, stray.workspace_id)]
    engine.before["stop"] = lambda _: 1 / 0
    sweeps.sweep_containers(now())
    assert engine.called("remove_storage") == []


def test_a_row_that_came_meanwhile_keeps_its_data(engine):
    late = stored(OLD)
    engine.storage = [late]
    real = engine.list_storage

    def listed():
        found = real()
        WorkspaceFactory(pk=late.workspace_id)  # inserted after the data was listed
        return found

    engine.list_storage = listed
    sweeps.sweep_containers(now())
    assert engine.storage == [late]


def test_data_of_many_strangers_is_left_alone(engine):
    engine.storage = [stored(OLD) for _ in range(6)]
    assert sweeps.sweep_containers(now()) == 0
    assert len(engine.storage) == 6


def test_many_containers_of_strangers_are_left_alone_and_counted(engine, valkey):
    strays = [compute() for _ in range(6)]
    for one in strays:
        engine.place(one)
    assert sweeps.sweep_containers(now()) == 0
    assert engine.called("stop") == []
    assert ComputeScan.objects.get().findings["refused"] == 6


def test_leftovers_of_purged_workspaces_go_however_many_they_are(engine):
    left = [compute() for _ in range(8)]
    for one in left:
        engine.place(one)
        ran(Workspace(pk=one.workspace_id), 1)  # the ledger outlives the row
    engine.storage = [stored(OLD, one.workspace_id) for one in left]
    assert sweeps.sweep_containers(now()) == 16  # each once for its container, once for its data
    assert [engine.running(one.workspace_id) for one in left] == [[]] * 8
    assert engine.storage == []


def test_strangers_that_are_held_back_do_not_keep_what_is_known(engine):
    strays, known = [compute() for _ in range(6)], compute()
    for one in (*strays, known):
        engine.place(one)
    ran(Workspace(pk=known.workspace_id), 1)
    assert sweeps.sweep_containers(now()) == 1
    assert engine.running(known.workspace_id) == []


def test_the_container_of_a_removed_row_is_given_to_its_teardown(engine):
    row = WorkspaceFactory(status=Status.REMOVED)
    engine.place(compute(row.pk))
    sweeps.sweep_containers(now())
    row.refresh_from_db()
    assert row.cleanup_pending


def test_tokens_of_gone_containers_are_revoked_and_no_others(engine):
    gone, there, starting, outside, person, fresh = (
        WorkspaceFactory(),
        WorkspaceFactory(),
        WorkspaceFactory(status=Status.PROVISIONING),
        WorkspaceFactory(runtime=EXTERNAL),
        WorkspaceFactory(),
        WorkspaceFactory(),
    )
    engine.place(compute(there.pk))
    for row in (gone, there, starting, outside):
        idle_token(row)
    idle_token(person, TokenKind.API)
    idle_token(fresh, minutes=4)
    sweeps.sweep_containers(now())
    assert [live_tokens(row) for row in (gone, there, starting, outside, person, fresh)] == [0, 1, 1, 1, 1, 1]


def test_no_container_at_all_is_a_legal_answer_for_tokens(engine):
    row = WorkspaceFactory()
    idle_token(row)
    assert sweeps.sweep_containers(now()) == 1
    assert live_tokens(row) == 0


def test_a_list_that_cannot_be_had_skips_its_passes_only(engine):
    row = WorkspaceFactory()
    idle_token(row)
    engine.storage = [stored(OLD)]
    engine.unreachable = True
    engine.status = lambda pk: "not_running"
    with pytest.raises(ConnectionError):
        sweeps.sweep_containers(now())
    assert (live_tokens(row), engine.storage) == (1, [])
    assert not ComputeScan.objects.exists()


def test_an_idle_sweep_makes_three_statements_at_most(engine, django_assert_max_num_queries):
    engine.place(compute(WorkspaceFactory().pk))
    sweeps.sweep_containers(now())
    with django_assert_max_num_queries(3):
        assert sweeps.sweep_containers(now()) == 0


# --- health: addresses that move, starts that loop, failed starts


def test_an_address_that_moved_is_repaired(engine, doorbell):
    row = running(engine, doorbell)
    engine.change(row.pk, url="http://127.0.0.1:4242")
    assert [sweeps.check_health(now()), sweeps.check_health(now())] == [1, 0]
    row.refresh_from_db()
    assert row.url == "http://127.0.0.1:4242"


@pytest.mark.parametrize(("restarts", "status"), [(2, "provisioning"), (3, "failed")])
def test_a_start_that_keeps_ending_fails_early_with_its_log(engine, doorbell, restarts, status):
    row = queued()
    doorbell.work()
    engine.log_texts[row.pk] = "trace\nkey sk-abcdefghijklmnop"
    engine.change(row.pk, restarts=restarts)
    sweeps.check_health(now())
    assert status_of(row) == status
    if status == "failed":
        detail = run_of(row).error_detail or ""
        assert "trace" in detail
        assert "sk-abcdefghijklmnop" not in detail


def test_the_compute_of_a_failed_start_is_stopped_after_its_grace(engine, doorbell):
    row = queued()
    doorbell.work()
    engine.log_texts[row.pk] = "it hung"
    sweeps.time_out_starts(now() + timedelta(hours=2))
    assert "it hung" in (run_of(row).error_detail or "")
    assert (sweeps.stop_parked(now()), engine.running(row.pk)) == (0, [1])
    assert sweeps.stop_parked(now() + timedelta(minutes=31)) == 1
    assert (engine.running(row.pk), status_of(row)) == ([], "failed")


# --- idle workspaces


def idle(engine, doorbell, minutes: int, **facts) -> Workspace:
    row = running(engine, doorbell)
    then = now() - timedelta(minutes=minutes)
    Workspace.objects.filter(pk=row.pk).update(**{"idle_since": then, "status_changed_at": then, **facts})
    return row


@pytest.mark.parametrize(
    ("default", "facts", "status"),
    [
        (5, {}, "hibernated"),
        (5, {"last_heartbeat_at": timezone.now()}, "hibernated"),
        (0, {}, "online"),
        (0, {"hibernation_idle_minutes": 5}, "hibernated"),
        (5, {"hibernation_idle_minutes": 7}, "online"),
        (5, {"hibernation_idle_minutes": 0}, "online"),
        (5, {"active_tasks": 1}, "online"),
        (5, {"last_outbound_at": timezone.now()}, "online"),
        (7, {}, "online"),
        (5, {"idle_since": None}, "hibernated"),
    ],
)
def test_what_is_idle_for_longer_than_its_limit_hibernates(
    engine, doorbell, settings, default, facts, status
):
    settings.HIBERNATION_IDLE_MINUTES = default
    if "last_outbound_at" in facts:
        facts = {"last_outbound_at": now()}
    row = idle(engine, doorbell, 6, **facts)
    sweeps.tend_idle(now())
    assert status_of(row) == status
    assert (engine.running(row.pk) == []) == (status == "hibernated")


def test_work_that_comes_between_the_choice_and_the_claim_wins(engine, doorbell, settings, monkeypatch):
    settings.HIBERNATION_IDLE_MINUTES = 5
    row = idle(engine, doorbell, 6)

    def work(pk) -> bool:
        Workspace.objects.filter(pk=pk).update(active_tasks=1)
        return False

    monkeypatch.setattr("provisioning.hooks.keeps_awake", [work])
    assert sweeps.tend_idle(now()) == 0
    assert (status_of(row), engine.running(row.pk)) == ("online", [1])


def test_a_restart_for_an_image_waits_for_idleness(engine, doorbell):
    row = running(engine, doorbell)
    Workspace.objects.filter(pk=row.pk).update(active_tasks=1)
    result = refresh_images(["langgraph", "codex"], recreate=True, force=False)
    assert (result["pulled"], result["deferred"]) == (["langgraph", "codex"], [f"ws-{row.pk}"])
    assert sweeps.tend_idle(now()) == 0
    Workspace.objects.filter(pk=row.pk).update(active_tasks=0)
    assert [sweeps.tend_idle(now()), sweeps.tend_idle(now())] == [1, 0]
    assert WorkspaceLifecycle.objects.get(pk=row.pk).restart_pending


def test_an_image_that_cannot_be_had_restarts_nobody_and_stops_no_other(engine, doorbell):
    row = running(engine, doorbell)
    engine.missing_images = {"langgraph"}
    result = refresh_images(["langgraph", "codex"], recreate=True, force=True)
    assert (result["pulled"], result["failed"], result["recreated"]) == (["codex"], ["langgraph"], [])
    assert status_of(row) == "online"


@pytest.mark.parametrize("status", ["queued", "dispatched", "completed"])
def test_a_message_on_its_way_keeps_an_idle_workspace_awake(engine, doorbell, settings, status):
    settings.HIBERNATION_IDLE_MINUTES = 5
    row = idle(engine, doorbell, 6)
    lease = now() + timedelta(minutes=1) if status == "dispatched" else None
    QueueItem.objects.create(
        workspace=row, caller_kind="canvas", body={}, status=status, lease_expires_at=lease
    )
    sweeps.tend_idle(now())
    assert status_of(row) == ("hibernated" if status == "completed" else "online")
