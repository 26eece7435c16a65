"""Compute that ended although its row says otherwise."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Exists, OuterRef, Q

from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.base import ComputeState, ErrorClass
from provisioning.models import ProvisionRun, RunState
from provisioning.services.restarts import Trigger, request_restart
from provisioning.services.sweeps.liveness import lose_external
from provisioning.services.sweeps.rows import BATCH, acted, each
from provisioning.services.sweeps.timeouts import fail_start
from workspaces.models import ALIVE, Status, Workspace
from workspaces.services import transitions


def check_health(now: datetime) -> int:
    """Compute that is gone although its row says otherwise; external agents that fell silent.

    Returns rows changed.
    """
    changed = lose_external(now)
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
    return changed + each(missing[:BATCH], _lose_compute)


def _lose_compute(row: Workspace) -> bool:
    """Ask once more for this one: the list may be older than the row."""
    if dispatch.status(row.pk) != ComputeState.NOT_RUNNING:
        return False
    fenced = Workspace.objects.at(row.pk, row.generation)
    if row.status == Status.PROVISIONING:
        message = "the workspace ended before its agent registered; look at its log, then restart it"
        return fail_start(fenced, row, ErrorClass.BOOT_FAILED, message, source="health_sweep")
    if not transitions.mark_lost(fenced):
        return False
    request_restart(row.pk, Trigger.REACTIVE, "health")
    return acted(Job.HEALTH_SWEEP, row.pk, "offline")
