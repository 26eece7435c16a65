"""Reads over several tables. Source: docs/reference/schedules.md, Health, History."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from uuid import UUID

from django.db.models.fields.json import KT

from activity.models import ActivityLog
from schedules.cron import gap_s
from schedules.models import RUN_TYPE, Schedule
from workspaces.models import Status

HISTORY = 20


@dataclass(frozen=True)
class Health:
    """How a schedule stands; `threshold_s` is how long it may be silent, 0 when nobody can tell."""

    schedule: Schedule
    status: str
    threshold_s: int


def health(now: datetime) -> list[Health]:
    """Every schedule of every workspace that is there."""
    gap = cache(lambda expression, timezone: gap_s(expression, timezone, now))
    rows = Schedule.objects.exclude(workspace__status=Status.REMOVED).select_related("workspace")
    return [
        _judged(row, 2 * gap(row.cron_expr, row.timezone), now)
        for row in rows.order_by("workspace__name", "name", "created_at", "id")
    ]


def _judged(row: Schedule, threshold_s: int, now: datetime) -> Health:
    """One that is switched off is not late."""
    status = "ok"
    if row.last_run_at is None:
        status = "never_run"
    elif row.enabled and threshold_s and now - row.last_run_at > timedelta(seconds=threshold_s):
        status = "stale"
    return Health(row, status, threshold_s)


def history(workspace_id: UUID, schedule_id: UUID) -> list[ActivityLog]:
    """The latest runs of a schedule."""
    runs = ActivityLog.objects.alias(of=KT("request_body__schedule_id")).filter(
        workspace_id=workspace_id, activity_type=RUN_TYPE, of=str(schedule_id)
    )
    return list(runs.newest_first()[:HISTORY])
