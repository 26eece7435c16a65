"""The loop of every sweep: row by row, and a failing row is the next pass's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from uuid import UUID

import structlog

from config.evt import evt
from config.jobs import Job
from workspaces.models import Workspace, WorkspaceQuerySet

log = structlog.get_logger(__name__)
T = TypeVar("T")

BATCH = 200
PARKED_BATCH = 50


def each(rows: Iterable[T], act: Callable[[T], bool]) -> int:
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


def one(row: Workspace) -> WorkspaceQuerySet:
    return Workspace.objects.filter(pk=row.pk)


def acted(sweep: Job, workspace_id: UUID, action: str, **more: Any) -> bool:
    """Put what a sweep has done on record; True, for the loop's count."""
    evt("sweep.action", {"sweep": sweep, "workspace_id": str(workspace_id), "action": action, **more})
    return True
