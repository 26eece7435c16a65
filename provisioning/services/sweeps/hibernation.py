"""Workspaces without work: put to sleep when that lasts, restarted when a restart has waited for it."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import DateTimeField, DurationField, Exists, ExpressionWrapper, F, OuterRef, Q, Value
from django.db.models.functions import Coalesce, Greatest

from config.jobs import Job
from provisioning import dispatch, hooks
from provisioning.models import WorkspaceLifecycle
from provisioning.services.images import restart_for_image
from provisioning.services.parking import hibernate_idle
from provisioning.services.sweeps.rows import PARKED_BATCH, acted, each, one
from workspaces.models import ALIVE, Workspace, WorkspaceQuerySet

MINUTE = timedelta(minutes=1)


def tend_idle(now: datetime) -> int:
    """Hibernate what has been idle for longer than its limit; make restarts that waited for idleness."""
    if not dispatch.has_provisioner():
        return 0
    is_idle = Workspace.objects.filter(pk=OuterRef("pk"), active_tasks=0)
    waiting = WorkspaceLifecycle.objects.filter(Exists(is_idle), refresh_asked_at__isnull=False)
    done = each(waiting.order_by("refresh_asked_at")[:PARKED_BATCH], restart_for_image)
    due = idle_too_long(Workspace.objects.all(), now).order_by("pk")
    return done + each(due[:PARKED_BATCH], lambda row: _hibernate(row, now), within_s=90)


def _hibernate(row: Workspace, now: datetime) -> bool:
    if any(hook(row.pk) for hook in hooks.keeps_awake):
        return False
    if not hibernate_idle(idle_too_long(one(row), now)):
        return False
    return acted(Job.HIBERNATION_MONITOR, row.pk, "hibernated")


def idle_too_long(rows: WorkspaceQuerySet, now: datetime) -> WorkspaceQuerySet:
    """Those of `rows` that have had nothing to do for longer than their own limit or the deployment's.

    Never judged by the heartbeat: a healthy agent always has a fresh one.
    """
    default = settings.HIBERNATION_IDLE_MINUTES
    own = Q(hibernation_idle_minutes__gt=0)
    # Never later than the idle clock, and what its index holds.
    others = Q(hibernation_idle_minutes=None, rested_since__lt=now - timedelta(minutes=default))
    limit = ExpressionWrapper(
        Coalesce("hibernation_idle_minutes", default) * Value(MINUTE, DurationField()), DurationField()
    )
    since = ExpressionWrapper(Value(now, DateTimeField()) - F("limit"), DateTimeField())
    return (
        rows.managed()
        .filter(status__in=ALIVE, active_tasks=0)
        .alias(
            rested_since=Coalesce("idle_since", "status_changed_at"),
            idle_from=Greatest("idle_since", "last_outbound_at", "status_changed_at"),
            limit=limit,
        )
        .filter((own | others) if default else own)
        .filter(idle_from__lt=since)
    )
