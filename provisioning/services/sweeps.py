"""The sweeps: what was lost, is overdue or does not match is found again by asking the rows and the backend.

Each is one bounded pass. Every change re-checks in its UPDATE what the selection believed, so a second run,
or one beside a person's action, changes nothing. One bad row never stops the rest. Source:
docs/reference/provisioning.md, Sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Coalesce, Now

from config.evt import evt
from config.states import update_returning
from provisioning import dispatch, ledger
from provisioning.backends.base import BackendError, ComputeState, ErrorClass
from provisioning.leases import lifecycle_turn
from provisioning.models import OPEN, ProvisionRun, RunKind, RunState, WorkspaceLifecycle
from provisioning.services.parking import finish_pause
from provisioning.services.restarts import Trigger, request_restart
from workspaces.defaults import provision_timeout_s
from workspaces.models import ALIVE, EXTERNAL, PARKED, Status, Workspace, WorkspaceQuerySet
from workspaces.services import transitions

log = structlog.get_logger(__name__)
T = TypeVar("T")

BATCH = 200
PARKED_BATCH = 50
MANAGED_STALE = timedelta(seconds=210)  # the liveness key's 180 s and the sweep's own 30 s
HIBERNATING_TOO_LONG = timedelta(minutes=5)
PAUSING_TOO_LONG = timedelta(minutes=2)  # twice the budget of its stops
RECENT_START = timedelta(hours=1)
ORPHANED_CLAIM = timedelta(
    seconds=30
)  # an accepted start gets its run in the next statement, unless its process died
RUN_RETENTION = timedelta(days=90)


def check_health(now: datetime) -> int:
    """Compute that is gone although its row says otherwise; external agents that fell silent.

    Returns rows changed.
    """
    changed = _lose_external(now)
    if not dispatch.has_provisioner():
        return changed
    booting = ProvisionRun.objects.filter(
        workspace_id=OuterRef("pk"), generation=OuterRef("generation"), state=RunState.STARTED
    )
    rows = list(
        Workspace.objects.managed()
        .filter(Q(status__in=ALIVE) | Q(Exists(booting), status=Status.PROVISIONING))
        .only("status", "generation")
        .order_by("pk")
    )
    if not rows:
        return changed
    running = {one.workspace_id for one in dispatch.list_managed() if one.state != ComputeState.NOT_RUNNING}
    missing = [row for row in rows if row.pk not in running]
    return changed + _each(missing[:BATCH], _lose_compute)


def _lose_compute(row: Workspace) -> bool:
    """Ask once more for this one: the list may be older than the row."""
    if dispatch.status(row.pk) != ComputeState.NOT_RUNNING:
        return False
    fenced = Workspace.objects.at(row.pk, row.generation)
    if row.status == Status.PROVISIONING:
        message = "the workspace ended before its agent registered; look at its log, then restart it"
        return _fail(fenced, row, ErrorClass.BOOT_FAILED, message, source="health_sweep")
    if not transitions.mark_lost(fenced):
        return False
    evt("sweep.action", {"sweep": "health-sweep", "workspace_id": str(row.pk), "action": "offline"})
    request_restart(row.pk, Trigger.REACTIVE, "health")
    return True


def _lose_external(now: datetime) -> int:
    stale = now - timedelta(seconds=settings.REMOTE_LIVENESS_STALE_AFTER)
    due = _silent(Workspace.objects.filter(runtime=EXTERNAL), stale)
    return _each(due[:BATCH], lambda row: bool(transitions.mark_away(_silent(_one(row), stale))))


def check_liveness(now: datetime) -> int:
    """Managed agents without a heartbeat: offline, and restarted; what stays offline is asked for again."""
    stale = now - MANAGED_STALE
    changed = _each(_silent(Workspace.objects.managed(), stale)[:BATCH], lambda row: _lose_silent(row, stale))
    if not dispatch.has_provisioner():
        return changed
    debounced = WorkspaceLifecycle.objects.filter(
        Q(cycle_started_at__gt=now - timedelta(seconds=settings.RESTART_DEBOUNCE_SECONDS))
        | Q(restart_pending=True),
        pk=OuterRef("pk"),
    )
    stranded = Workspace.objects.managed().filter(~Exists(debounced), status=Status.OFFLINE)
    return changed + _each(
        stranded[:BATCH], lambda row: request_restart(row.pk, Trigger.REACTIVE, "liveness")
    )


def _lose_silent(row: Workspace, stale: datetime) -> bool:
    if not transitions.mark_lost(_silent(_one(row), stale)):
        return False
    evt("sweep.action", {"sweep": "liveness-backstop", "workspace_id": str(row.pk), "action": "offline"})
    request_restart(row.pk, Trigger.REACTIVE, "liveness")
    return True


def _silent(rows: WorkspaceQuerySet, stale: datetime) -> WorkspaceQuerySet:
    seen = Coalesce("last_heartbeat_at", "status_changed_at")
    return rows.filter(status__in=ALIVE).alias(seen=seen).filter(seen__lt=stale)


def time_out_starts(now: datetime) -> int:
    """Starts past their deadline fail, with what is known about how far they came.

    One that no worker has begun is spared while others of the deployment still start: waiting is not being
    stuck.
    """
    overdue = (
        Workspace.objects.filter(status=Status.PROVISIONING).filter(_overdue(now)).order_by("pk")[:BATCH]
    )
    rows = list(overdue)
    if not rows:
        return 0
    starting = ProvisionRun.objects.starts().filter(started_at__gt=now - RECENT_START).exists()
    return _each(rows, lambda row: _time_out(row, now, others_start=starting))


def _overdue(now: datetime) -> Q:
    # Without a deadline (a row of an older release) the age counts, with the longest timeout there is.
    longest = now - timedelta(seconds=max(1800, provision_timeout_s("")))
    return Q(provision_deadline_at__lt=now) | Q(provision_deadline_at=None, status_changed_at__lt=longest)


def _time_out(row: Workspace, now: datetime, *, others_start: bool) -> bool:
    run = ProvisionRun.objects.starts().filter(workspace_id=row.pk, generation=row.generation).first()
    is_waiting = run is None or (run.state == RunState.QUEUED and run.attempts == 0)
    if is_waiting and others_start and (run or _waits_for_cycle(row)):
        return False
    seconds = provision_timeout_s(row.runtime)
    if is_waiting:
        message = "no worker picked the start up in time; check that the server's workers are running"
    elif run and run.state == RunState.STARTED:
        message = (
            f"the workspace started, but its agent did not register within {seconds} s; "
            "look at its log and at its network path to this server"
        )
    else:
        slowest = max(run.steps, key=lambda step: step["duration_ms"], default=None) if run else None
        hint = f" (slowest step: {slowest['name']})" if slowest else ""
        message = f"the workspace's compute did not start within {seconds} s{hint}"
    fenced = Workspace.objects.at(row.pk, row.generation).filter(_overdue(now))
    return _fail(fenced, row, ErrorClass.TIMEOUT, message, source="provision_timeout_sweep",
                 timeout_secs=seconds, runtime=row.runtime)  # fmt: skip


def _waits_for_cycle(row: Workspace) -> bool:
    """An accepted restart has no run until its cycle begins."""
    return WorkspaceLifecycle.objects.filter(pk=row.pk, restart_pending=True).exists()


def _fail(
    fenced: WorkspaceQuerySet, row: Workspace, error_class: ErrorClass, message: str, **extra: Any
) -> bool:
    """Row and run fail together; a worker that still holds the run finds its lease gone."""
    with transaction.atomic():
        if not transitions.mark_failed(fenced, message, **extra):
            return False
        runs = ProvisionRun.objects.starts().filter(workspace_id=row.pk, generation=row.generation)
        ledger.fail_run(runs, BackendError(error_class, message))
    return True


def stop_parked(now: datetime) -> int:
    """Compute that should not run: owed stops, parked rows that still run, parkings cut short."""
    if not dispatch.has_provisioner():
        return 0
    owed = WorkspaceLifecycle.objects.exclude(stop_below_generation=None).order_by("pk")[:PARKED_BATCH]
    done = _each(owed, _stop_owed)
    stuck = Workspace.objects.filter(
        status=Status.HIBERNATING, status_changed_at__lt=now - HIBERNATING_TOO_LONG
    ).order_by("pk")
    done += _each(stuck[:PARKED_BATCH], _finish_hibernation)
    running = {one.workspace_id for one in dispatch.list_managed() if one.state != ComputeState.NOT_RUNNING}
    cut_short = Q(status=Status.PAUSED, url__gt="", status_changed_at__lt=now - PAUSING_TOO_LONG)
    astray = Workspace.objects.managed().filter(
        Q(pk__in=running) | cut_short, status__in=PARKED - {Status.HIBERNATING}, cleanup_pending=False
    )
    return done + _each(astray.order_by("pk")[:PARKED_BATCH], _stop_astray)


def _stop_owed(owed: WorkspaceLifecycle) -> bool:
    bound = owed.stop_below_generation
    with lifecycle_turn(owed.pk) as mine:
        if not mine:
            return False
        rows = WorkspaceLifecycle.objects.filter(pk=owed.pk, stop_below_generation=bound)
        rows.update(stop_attempts=F("stop_attempts") + 1)
        dispatch.stop(owed.pk, below_generation=bound)
        rows.update(stop_below_generation=None, stop_attempts=0)
    return _acted(owed.pk, "stopped")


def _stop_astray(row: Workspace) -> bool:
    """Under the lock nothing starts; the generation keeps a workspace that was woken meanwhile out of it."""
    if (
        row.status == Status.REMOVED
    ):  # its storage may have come back with the compute: the whole teardown again
        return bool(_one(row).filter(status=Status.REMOVED).update(cleanup_pending=True))
    with lifecycle_turn(row.pk) as mine:
        # A pause whose stop failed was undone without a new generation.
        if not mine or not Workspace.objects.at(row.pk, row.generation).filter(status=row.status).exists():
            return False
        dispatch.stop(row.pk, below_generation=row.generation + 1)
        if row.status != Status.PAUSED or not finish_pause(row.pk, row.generation, had_url=True):
            transitions.clear_address(row.pk, row.generation)
    return _acted(row.pk, "stopped")


def _finish_hibernation(row: Workspace) -> bool:
    with lifecycle_turn(row.pk) as mine:
        if not mine:
            return False
        dispatch.stop(row.pk, below_generation=row.generation)
        transitions.confirm_hibernation(row.pk, row.generation)
    return _acted(row.pk, "hibernated")


def _acted(workspace_id: UUID, action: str) -> bool:
    evt("sweep.action", {"sweep": "parked-compute", "workspace_id": str(workspace_id), "action": action})
    return True


def clean_up(now: datetime) -> int:
    """Every removed workspace that owes its teardown gets a run for it; old history goes."""
    open_teardown = ProvisionRun.objects.filter(
        workspace_id=OuterRef("pk"), kind=RunKind.TEARDOWN, state__in=sorted(OPEN)
    )
    owing = Workspace.objects.filter(~Exists(open_teardown), cleanup_pending=True, status=Status.REMOVED)
    queued = _each(owing.order_by("pk")[:PARKED_BATCH], _queue_teardown)
    # The pointer to compute that is not confirmed gone stays, however old.
    unconfirmed = Workspace.objects.filter(pk=OuterRef("workspace_id")).filter(
        Q(cleanup_pending=True) | ~Q(status=Status.REMOVED)
    )
    old = ProvisionRun.objects.filter(
        ~Exists(unconfirmed) | Q(compute_id=None), finished_at__lt=now - RUN_RETENTION
    )
    if forgotten := list(old.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        ProvisionRun.objects.filter(pk__in=forgotten).delete()
    return queued


def _queue_teardown(row: Workspace) -> bool:
    ledger.queue_teardown(row.pk, row.generation, backend=dispatch.label())
    return True


def requeue(now: datetime) -> int:
    """Ring again for whatever has lost its message or its worker; give a run to a start that has none."""
    rung = _ring_due()
    waiting = WorkspaceLifecycle.objects.filter(restart_pending=True, pending_since__lt=now - ORPHANED_CLAIM)
    rung += _each(waiting.order_by("pending_since")[:BATCH], _ring_restart)
    any_run = ProvisionRun.objects.starts().filter(
        workspace_id=OuterRef("pk"), generation=OuterRef("generation")
    )
    pending = WorkspaceLifecycle.objects.filter(pk=OuterRef("pk"), restart_pending=True)
    orphans = Workspace.objects.managed().filter(
        ~Exists(any_run),
        ~Exists(pending),
        status=Status.PROVISIONING,
        status_changed_at__lt=now - ORPHANED_CLAIM,
    )
    return rung + _each(
        orphans.order_by("pk")[:BATCH],
        lambda row: dispatch.provision_async(row, kind=RunKind.AUTO_RESTART, trigger="requeue"),
    )


def _ring_due() -> int:
    """Due runs, each at most once a minute: a backlog must not grow the queue with every tick."""
    due = ProvisionRun.objects.claimable().filter(due_at__lt=Now())
    oldest = due.order_by("due_at").values("pk")[:BATCH]
    runs = update_returning(due.filter(pk__in=oldest), due_at=Now() + ledger.RING_AGAIN)
    for run in runs:
        ledger.ring(run)
    return len(runs)


def _ring_restart(waiting: WorkspaceLifecycle) -> bool:
    ledger.ring_for_waiting(waiting.pk)
    return True


def _one(row: Workspace) -> WorkspaceQuerySet:
    return Workspace.objects.filter(pk=row.pk)


def _each(rows: Iterable[T] | QuerySet, act: Callable[[T], bool]) -> int:  # type: ignore[type-arg]
    """How many of `rows` `act` changed. A failing one is logged and left for the next pass."""
    changed = 0
    for row in rows:
        try:
            changed += act(row)
        except Exception as error:
            log.warning(
                "sweep.row_failed",
                row=str(getattr(row, "pk", row)),
                error=getattr(error, "detail", "") or str(error),
            )
    return changed
