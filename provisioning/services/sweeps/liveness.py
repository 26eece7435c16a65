"""Agents that fell silent, ours and others'."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Coalesce

from config.jobs import Job
from provisioning import dispatch
from provisioning.models import WorkspaceLifecycle
from provisioning.services.restarts import Trigger, request_restart
from provisioning.services.sweeps.rows import BATCH, acted, each, one
from workspaces.models import ALIVE, EXTERNAL, Status, Workspace, WorkspaceQuerySet
from workspaces.services import transitions

MANAGED_STALE = timedelta(seconds=210)  # the liveness key's 180 s and the sweep's own 30 s


def check_liveness(now: datetime) -> int:
    """Managed agents without a heartbeat: offline, and restarted; what stays offline is asked for again."""
    stale = now - MANAGED_STALE
    changed = each(_silent(Workspace.objects.managed(), stale)[:BATCH], lambda row: _lose_silent(row, stale))
    if not dispatch.has_provisioner():
        return changed
    debounced = WorkspaceLifecycle.objects.filter(
        Q(cycle_started_at__gt=now - timedelta(seconds=settings.RESTART_DEBOUNCE_SECONDS))
        | Q(restart_pending=True),
        pk=OuterRef("pk"),
    )
    stranded = Workspace.objects.managed().filter(~Exists(debounced), status=Status.OFFLINE)
    return changed + each(stranded[:BATCH], lambda row: request_restart(row.pk, Trigger.REACTIVE, "liveness"))


def _lose_silent(row: Workspace, stale: datetime) -> bool:
    if not transitions.mark_lost(_silent(one(row), stale)):
        return False
    request_restart(row.pk, Trigger.REACTIVE, "liveness")
    return acted(Job.LIVENESS_BACKSTOP, row.pk, "offline")


def _silent(rows: WorkspaceQuerySet, stale: datetime) -> WorkspaceQuerySet:
    seen = Coalesce("last_heartbeat_at", "status_changed_at")
    return rows.filter(status__in=ALIVE).alias(seen=seen).filter(seen__lt=stale)


def lose_external(now: datetime) -> int:
    stale = now - timedelta(seconds=settings.REMOTE_LIVENESS_STALE_AFTER)
    due = _silent(Workspace.objects.filter(runtime=EXTERNAL), stale)
    return each(due[:BATCH], lambda row: bool(transitions.mark_away(_silent(one(row), stale))))
