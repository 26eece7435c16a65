"""Writing down what became of a run: the schedule, its line in the feed and the event, together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from a2a.services.queue import active_item
from activity.events import EventType, record
from activity.redaction import scrubbed, storable
from activity.services import log_activity
from activity.tally import tally
from schedules.models import RUN_TYPE, Schedule
from schedules.statements import bounded
from schedules.verdicts import ERROR, MOST_EMPTY, OK, QUEUED, SKIPPED, STALE, Effect, Outcome
from workspaces.models import Workspace

log = structlog.get_logger(__name__)

MOST_SDK_ERRORS = 3
ERROR_CHARS = 2000
PROMPT_CHARS = 200
RUN_METHOD = "cron"


class Claim(Protocol):
    """A run that was claimed, as a row or as what a worker took."""

    @property
    def workspace_id(self) -> UUID: ...
    @property
    def slot(self) -> datetime | None: ...
    @property
    def pk(self) -> Any: ...


@dataclass(frozen=True)
class _Told:
    event: EventType
    more: dict[str, str]


def finish(claim: Claim, outcome: Outcome, *, began: datetime, only_abandoned: bool = False) -> bool:
    """End a claimed run. False: the schedule is gone, or somebody else has ended the run.

    `only_abandoned`: end it for its worker, which has let its lease expire.
    """
    with bounded():
        _hold(claim.workspace_id)
        rows = Schedule.objects.of(claim.workspace_id, claim.pk)
        rows = rows.filter(slot=claim.slot, lease_expires_at__isnull=False)
        if only_abandoned:
            rows = rows.filter(lease_expires_at__lte=Now())
        row = rows.select_for_update().first()
        if row is None:
            log.info("schedule.run_not_ours", schedule_id=str(claim.pk))
            return False
        row.slot = row.lease_expires_at = None
        row.last_run_at, row.run_count = began, row.run_count + 1
        has_ended = outcome.status == QUEUED and active_item(row.workspace_id, str(row.pk)) is None
        _write(row, outcome, began, keeps_status=has_ended)  # its end was written down before this
    return True


@transaction.atomic
def finish_queued(workspace_id: UUID, schedule_id: UUID, outcome: Outcome, *, began: datetime) -> bool:
    """What became of a run whose message waited in the queue; it was counted when it was put there."""
    _hold(workspace_id)
    row = Schedule.objects.of(workspace_id, schedule_id).select_for_update().first()
    if row is None:
        return False
    is_latest = row.last_status == QUEUED or row.slot is not None  # else a later run has had its say
    _write(row, outcome, began, keeps_status=not is_latest)
    return True


def _hold(workspace_id: UUID) -> None:
    """The workspace before its schedule, as a removal does it."""
    list(Workspace.objects.select_for_update(no_key=True).filter(pk=workspace_id).values_list("pk"))


def _write(row: Schedule, outcome: Outcome, began: datetime, *, keeps_status: bool = False) -> None:
    _count(row, outcome)
    status = STALE if row.consecutive_empty_runs >= MOST_EMPTY and outcome.status == OK else outcome.status
    error = scrubbed(str(storable(outcome.error)), limit=ERROR_CHARS)
    if not keeps_status:
        row.last_status, row.last_error = str(storable(status)), error
    row.updated_at = Now()
    row.save()
    told = _told(status, error)
    record(
        told.event,
        row.workspace_id,
        {"schedule_id": str(row.pk), "schedule_name": row.name, **told.more},
    )
    outcome_name = status if status in {OK, QUEUED, SKIPPED, STALE, ERROR} else "refused"
    transaction.on_commit(
        lambda: tally.add("molecule_schedule_runs_total", outcome=outcome_name), robust=True
    )
    log_activity(
        workspace_id=row.workspace_id,
        activity_type=RUN_TYPE,
        method=RUN_METHOD,
        announce=False,
        summary=f"schedule {row.name or row.pk}: {status}",
        request_body={
            "schedule_id": str(row.pk),
            "schedule_name": row.name,
            "cron_expr": row.cron_expr,
            "prompt": row.prompt[:PROMPT_CHARS],
        },
        status=status,
        error_detail=error or None,
        duration_ms=max(1, int((timezone.now() - began).total_seconds() * 1000)),
    )


def _count(row: Schedule, outcome: Outcome) -> None:
    """Three refusals in a row switch a schedule off; answers without a word make it stale."""
    match outcome.effect:
        case Effect.GOOD:
            row.consecutive_empty_runs = row.consecutive_sdk_errors = 0
        case Effect.EMPTY:
            row.consecutive_empty_runs += 1
        case Effect.REFUSED:
            row.consecutive_sdk_errors += 1
            if row.consecutive_sdk_errors >= MOST_SDK_ERRORS and row.enabled:
                row.enabled = False
                log.warning("schedule.switched_off", schedule_id=str(row.pk), status=outcome.status)


def _told(status: str, error: str) -> _Told:
    if status == QUEUED:
        return _Told(EventType.CRON_QUEUED, {})
    if status == SKIPPED:
        return _Told(EventType.CRON_SKIPPED, {"reason": error})
    return _Told(EventType.CRON_EXECUTED, {"status": status})
