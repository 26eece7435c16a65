"""Workspaces shown as busy although nothing has happened in them: a counter is repaired, nothing restarts.

An agent that died between the start and the end of a task leaves its count behind. Source:
docs/reference/workspaces.md, Phantom tasks.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from activity.counters import count
from activity.events import EventType, broadcast
from activity.models import ActivityLog
from config.states import update_returning
from workspaces import hooks
from workspaces.models import ALIVE, Workspace, WorkspaceQuerySet

log = structlog.get_logger(__name__)

SILENT = timedelta(minutes=10)
BATCH = 500  # rows locked at once
RESETS = "molecule_phantom_busy_resets_total"


def is_switched_on() -> bool:
    return not settings.PHANTOM_BUSY_SWEEP_DISABLED


def reset_phantom_busy(now: datetime) -> int:
    """Set the task count of every silent workspace to nothing, in batches; return how many were set."""
    if not is_switched_on():
        return 0
    reset = 0
    while True:
        rows = _reset_batch(now)
        reset += len(rows)
        for row in rows:
            log.info("phantom_busy.reset", workspace_id=str(row.pk))
            if row.status in ALIVE:
                for hook in hooks.has_free_slot:
                    hook(row.pk)
        if len(rows) < BATCH:
            return reset


@transaction.atomic
def _reset_batch(now: datetime) -> list[Workspace]:
    due = (
        _silent(Workspace.objects.all(), now).order_by("pk").select_for_update(of=("self",), skip_locked=True)
    )
    found = list(due.values_list("pk", flat=True)[:BATCH])
    if not found:
        return []
    rows = update_returning(
        _silent(Workspace.objects.filter(pk__in=found), now),
        active_tasks=0,
        current_task="",
        idle_since=Now(),
        updated_at=Now(),
    )
    for row in rows:
        broadcast(EventType.TASK_UPDATED, row.pk, {"current_task": "", "active_tasks": 0})
    count(RESETS, len(rows))  # last: whoever waits for the counter holds no lock that its holder waits for
    return rows


def _silent(rows: WorkspaceQuerySet, now: datetime) -> WorkspaceQuerySet:
    """Those that say they work, and in which nothing was logged lately."""
    recent = ActivityLog.objects.filter(workspace_id=OuterRef("pk"), created_at__gt=now - SILENT)
    return rows.live().filter(~Exists(recent), active_tasks__gt=0)
