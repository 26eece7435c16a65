"""Compute that should not run."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F, Q

from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.base import ComputeState
from provisioning.leases import lifecycle_turn
from provisioning.models import WorkspaceLifecycle
from provisioning.services.parking import finish_pause
from provisioning.services.sweeps.rows import PARKED_BATCH, acted, each, one
from workspaces.models import PARKED, Status, Workspace
from workspaces.services import transitions

HIBERNATING_TOO_LONG = timedelta(minutes=5)
PAUSING_TOO_LONG = timedelta(minutes=2)  # twice the budget of its stops


def stop_parked(now: datetime) -> int:
    """Compute that should not run: owed stops, parked rows that still run, parkings cut short."""
    if not dispatch.has_provisioner():
        return 0
    owed = WorkspaceLifecycle.objects.exclude(stop_below_generation=None).order_by("pk")[:PARKED_BATCH]
    done = each(owed, _stop_owed)
    stuck = Workspace.objects.filter(
        status=Status.HIBERNATING, status_changed_at__lt=now - HIBERNATING_TOO_LONG
    ).order_by("pk")
    done += each(stuck[:PARKED_BATCH], _finish_hibernation)
    running = {one.workspace_id for one in dispatch.list_managed() if one.state != ComputeState.NOT_RUNNING}
    cut_short = Q(status=Status.PAUSED, url__gt="", status_changed_at__lt=now - PAUSING_TOO_LONG)
    parked = Q(Q(pk__in=running) | cut_short, status__in=PARKED - {Status.HIBERNATING}, cleanup_pending=False)
    astray = Workspace.objects.managed().filter(parked | (Q(pk__in=running) & _given_up(now)))
    return done + each(astray.order_by("pk")[:PARKED_BATCH], _stop_astray)


def _given_up(now: datetime) -> Q:
    """Starts that failed long enough ago for somebody to have looked: what is left of them neither loops
    nor bills for ever.
    """
    grace = timedelta(minutes=settings.FAILED_COMPUTE_GRACE_MINUTES)
    return Q(status=Status.FAILED, status_changed_at__lt=now - grace)


def _stop_owed(owed: WorkspaceLifecycle) -> bool:
    bound = owed.stop_below_generation
    with lifecycle_turn(owed.pk) as mine:
        if not mine:
            return False
        rows = WorkspaceLifecycle.objects.filter(pk=owed.pk, stop_below_generation=bound)
        rows.update(stop_attempts=F("stop_attempts") + 1)
        dispatch.stop(owed.pk, below_generation=bound)
        rows.update(stop_below_generation=None, stop_attempts=0)
    return acted(Job.PARKED_COMPUTE, owed.pk, "stopped")


def _stop_astray(row: Workspace) -> bool:
    """Under the lock nothing starts; the generation keeps a workspace that was woken meanwhile out of it."""
    if (
        row.status == Status.REMOVED
    ):  # its storage may have come back with the compute: the whole teardown again
        return bool(one(row).filter(status=Status.REMOVED).update(cleanup_pending=True))
    with lifecycle_turn(row.pk) as mine:
        # A pause whose stop failed was undone without a new generation; a start that failed may have come.
        unchanged = Workspace.objects.at(row.pk, row.generation).filter(
            status=row.status, status_changed_at=row.status_changed_at
        )
        if not mine or not unchanged.exists():
            return False
        dispatch.stop(row.pk, below_generation=row.generation + 1)
        if row.status != Status.PAUSED or not finish_pause(row.pk, row.generation, had_url=True):
            transitions.clear_address(row.pk, row.generation)
    return acted(Job.PARKED_COMPUTE, row.pk, "stopped")


def _finish_hibernation(row: Workspace) -> bool:
    with lifecycle_turn(row.pk) as mine:
        if not mine:
            return False
        dispatch.stop(row.pk, below_generation=row.generation)
        transitions.confirm_hibernation(row.pk, row.generation)
    return acted(Job.PARKED_COMPUTE, row.pk, "hibernated")
