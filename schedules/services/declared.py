"""Schedules that an org template declares, many workspaces at once, in a fixed number of statements.

What people and agents have made stays theirs: a template neither changes it nor takes its name. Source:
docs/reference/schedules.md, Templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, transaction
from django.db.models.functions import Now
from django.utils import timezone

from config.errors import BadRequest
from schedules.cron import next_run
from schedules.models import Schedule, Source
from schedules.services.crud import apply_changes
from workspaces.services import share_live_parents

log = structlog.get_logger(__name__)

NOT_OURS = "a schedule of this name was not made by a template and stays as it is"
GONE = "its workspace was removed meanwhile"
_COLUMNS = ", ".join(f"s.{column.column}" for column in Schedule._meta.concrete_fields)
# The newest tombstone in the place of each of these workspaces, and what was made at work in it.
_LEFT_BEHIND = f"""
WITH predecessor AS (
    SELECT DISTINCT ON (heir.id) heir.id AS heir_id, old.id AS old_id
    FROM workspaces heir
    JOIN workspaces old ON old.name = heir.name AND old.status = 'removed'
        AND (old.parent_id = heir.parent_id OR (old.parent_id IS NULL AND heir.parent_id IS NULL))
    WHERE heir.id = ANY(%s)
    ORDER BY heir.id, old.status_changed_at DESC, old.id)
SELECT {_COLUMNS}, predecessor.heir_id FROM predecessor
JOIN workspace_schedules s ON s.workspace_id = predecessor.old_id AND s.source = 'runtime'
ORDER BY s.id FOR UPDATE OF s
"""


@dataclass(frozen=True)
class Declared:
    """One schedule of a template, judged."""

    name: str
    cron_expr: str
    timezone: str
    prompt: str
    enabled: bool


@dataclass
class Planted:
    """What became of the declared schedules of one workspace: those stored or renewed, and (name, reason)."""

    names: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def plant_schedules(declared: Mapping[UUID, Sequence[Declared]]) -> dict[UUID, Planted]:
    """Give new workspaces what was made at work in their predecessors, then what is declared; inside the
    transaction that creates them.
    """
    inherited = _inherit(list(declared))
    return _insert({one: list(wanted) for one, wanted in declared.items()}, inherited)


@transaction.atomic
def refresh_schedules(declared: Mapping[UUID, Sequence[Declared]]) -> dict[UUID, Planted]:
    """Bring workspaces that exist to what is declared; what is declared no more stays.

    Only what differs is stored and named.
    """
    declared = {one: wanted for one, wanted in declared.items() if wanted}
    if not declared:
        return {}
    live = share_live_parents(declared)
    found = {
        (row.workspace_id, row.name): row
        for row in Schedule.objects.filter(workspace_id__in=live).order_by("id").select_for_update()
    }
    missing: dict[UUID, list[Declared]] = {}
    planted: dict[UUID, Planted] = {}
    changed: list[Schedule] = []
    for workspace_id, wanted in declared.items():
        mine = planted[workspace_id] = Planted()
        for one in wanted:
            row = found.get((workspace_id, one.name))
            if workspace_id not in live:
                mine.refused.append((one.name, GONE))
            elif row is None:
                missing.setdefault(workspace_id, []).append(one)
            elif row.source != Source.TEMPLATE:
                mine.refused.append((one.name, NOT_OURS))
            elif apply_changes(row, asdict(one)):
                changed.append(row)
                mine.names.append(one.name)
    _store(changed)
    for workspace_id, added in _insert(missing, {}).items():
        planted[workspace_id].names += added.names
        planted[workspace_id].refused += added.refused
    return planted


_CHANGING = (
    "cron_expr",
    "timezone",
    "prompt",
    "enabled",
    "next_run_at",
    "consecutive_empty_runs",
    "consecutive_sdk_errors",
    "consecutive_slot_errors",
    "stopped_by_removal",
    "workspace",
    "updated_at",
)


def _store(rows: Sequence[Schedule]) -> None:
    if rows:
        Schedule.objects.bulk_update(rows, _CHANGING)


def _insert(
    declared: Mapping[UUID, Sequence[Declared]], taken: Mapping[UUID, set[str]]
) -> dict[UUID, Planted]:
    """A name that somebody takes at this very moment is theirs, too."""
    planted = {one: Planted() for one in declared}
    now = timezone.now()
    rows = []
    for workspace_id, wanted in declared.items():
        for one in wanted:
            if one.name in taken.get(workspace_id, ()):
                planted[workspace_id].refused.append((one.name, NOT_OURS))
                continue
            due = next_run(one.cron_expr, one.timezone, now)
            row = Schedule(workspace_id=workspace_id, source=Source.TEMPLATE, next_run_at=due, **asdict(one))
            rows.append(row)
            planted[workspace_id].names.append(one.name)
    if rows:
        Schedule.objects.bulk_create(rows, ignore_conflicts=True)
    return planted


def _inherit(heirs: list[UUID]) -> dict[UUID, set[str]]:
    """Move what was made at work in a removed predecessor to its heir; returns the names by heir.

    What ran until the removal runs again. A failure is logged, and the import goes on without.
    """
    try:
        with transaction.atomic():
            return _moved(heirs)
    except DatabaseError:
        log.exception("schedules.not_inherited", workspaces=len(heirs))
        return {}


def _moved(heirs: list[UUID]) -> dict[UUID, set[str]]:
    names: dict[UUID, set[str]] = {}
    rows: list[Any] = list(Schedule.objects.raw(_LEFT_BEHIND, [heirs]))
    now = timezone.now()
    for row in rows:
        names.setdefault(row.heir_id, set()).add(row.name)
        row.workspace_id = row.heir_id
        row.updated_at = Now()
        if row.stopped_by_removal:
            row.stopped_by_removal = False
            row.next_run_at = _next_or_none(row, now)
            row.enabled = row.next_run_at is not None
    _store(rows)
    return names


def _next_or_none(row: Schedule, now: datetime) -> datetime | None:
    try:
        return next_run(row.cron_expr, row.timezone, now)
    except BadRequest:
        return None
