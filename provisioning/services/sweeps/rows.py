"""The loop of every sweep: row by row, and a failing row is the next pass's."""

from __future__ import annotations

import time
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


def each(rows: Iterable[T], act: Callable[[T], bool], *, within_s: float = 45) -> int:
    """How many of `rows` `act` changed. A failing one is logged, and like those not reached in time it is
    left for the next pass.
    """
    deadline = time.monotonic() + within_s
    changed = 0
    for row in rows:
        if time.monotonic() > deadline:
            log.warning("sweep.out_of_time", act=getattr(act, "__name__", ""))
            break
        try:
            changed += act(row)
        except Exception as error:
            log.warning(
                "sweep.row_failed",
                row=str(getattr(row, "pk", row)),
                error=getattr(error, "detail", "") or str(error),
            )
    return changed


def independently(*passes: Callable[[], int]) -> int:
    """The sum of several passes, each made whatever became of the others. Raises the first error at the end.

    So a sweep that failed in a part is on record as failed.
    """
    changed, errors = 0, []
    for work in passes:
        try:
            changed += work()
        except Exception as error:
            log.warning("sweep.pass_failed", error=getattr(error, "detail", "") or str(error))
            errors.append(error)
    if errors:
        raise errors[0]
    return changed


def one(row: Workspace) -> WorkspaceQuerySet:
    return Workspace.objects.filter(pk=row.pk)


def acted_on_image(runtime: str, digest: str) -> bool:
    evt(
        "sweep.action",
        {"sweep": Job.IMAGE_AUTO_REFRESH, "runtime": runtime, "action": "moved", "digest": digest},
    )
    return True


def acted(sweep: Job, workspace_id: UUID, action: str, **more: Any) -> bool:
    """Put what a sweep has done on record; True, for the loop's count."""
    evt("sweep.action", {"sweep": sweep, "workspace_id": str(workspace_id), "action": action, **more})
    return True
