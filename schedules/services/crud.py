"""Making, changing and ending schedules. Source: docs/reference/schedules.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone as clock

from config.errors import Conflict, NotFound
from schedules.cron import next_run
from schedules.models import NAME_UNIQUE, Schedule
from workspaces.services import share_live_parents


@transaction.atomic
def create_schedule(
    *, workspace_id: UUID, cron_expr: str, prompt: str, name: str, timezone: str, enabled: bool
) -> Schedule:
    """Raises BadRequest (time zone, expression), Conflict (the name is taken), NotFound (a removed
    workspace).
    """
    due = next_run(cron_expr, timezone, clock.now())
    if not share_live_parents([workspace_id]):  # or it would be made behind the back of a removal
        raise NotFound("workspace not found")
    with _unique_name():
        return Schedule.objects.create(
            workspace_id=workspace_id,
            name=name,
            cron_expr=cron_expr,
            timezone=timezone,
            prompt=prompt,
            enabled=enabled,
            next_run_at=due,
        )


@transaction.atomic
def update_schedule(*, workspace_id: UUID, schedule_id: UUID, changes: Mapping[str, Any]) -> Schedule:
    """Raises NotFound, and what `create_schedule` does."""
    row = Schedule.objects.of(workspace_id, schedule_id).select_for_update().first()
    if row is None:
        raise _unknown()
    changed = apply_changes(row, changes)
    if changed:
        with _unique_name():
            row.save(update_fields=changed)
    return row


def apply_changes(row: Schedule, changes: Mapping[str, Any]) -> list[str]:
    """Put the changes into the row, unsaved; returns the columns that differ now.

    Its next time is computed anew when its times change or when it is switched on: what passed meanwhile
    does not count. Raises BadRequest.
    """
    fields = {name: value for name, value in changes.items() if getattr(row, name) != value}
    if not fields:
        return []
    for name, value in fields.items():
        setattr(row, name, value)
    if fields.get("enabled"):
        fresh = {"consecutive_empty_runs": 0, "consecutive_sdk_errors": 0, "stopped_by_removal": False}
        fields |= fresh
        for name, value in fresh.items():
            setattr(row, name, value)
    if fields.keys() & {"cron_expr", "timezone"} or fields.get("enabled"):
        row.next_run_at = next_run(row.cron_expr, row.timezone, clock.now())
        row.consecutive_slot_errors = 0
        fields |= {"next_run_at": None, "consecutive_slot_errors": 0}
    row.updated_at = Now()
    return [*fields, "updated_at"]


def delete_schedule(*, workspace_id: UUID, schedule_id: UUID) -> None:
    """A run that is under way comes to its end, and leaves no trace here. Raises NotFound."""
    deleted, _ = Schedule.objects.of(workspace_id, schedule_id).delete()
    if not deleted:
        raise _unknown()


def _unknown() -> NotFound:
    return NotFound("schedule not found")


@contextmanager
def _unique_name() -> Iterator[None]:
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        if NAME_UNIQUE not in str(error):
            raise
        raise Conflict("schedule name already exists") from None
