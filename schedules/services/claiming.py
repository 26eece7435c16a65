"""The scheduler's tick: who is due is claimed, and a worker is rung for; nothing is sent here.

A claim sets the next time first: whatever happens to the run, the schedule neither dies nor fires twice.
Source: docs/reference/schedules.md, The scheduler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from uuid import UUID

import orjson
import redis
import structlog
from django.db import DatabaseError
from django.db.models import Q

from activity.tally import tally
from config.errors import DomainError
from config.jobs import Job, enqueue
from config.valkey import client
from schedules.cron import next_run
from schedules.models import Schedule
from schedules.services.outcomes import finish
from schedules.statements import bounded
from schedules.verdicts import ERROR, Outcome
from workspaces.cache import runtime_key
from workspaces.models import Status

log = structlog.get_logger(__name__)

BATCH = 50
MOST_SLOT_ERRORS = 3
UNANSWERABLE = "the next run cannot be computed"
WORKER_LOST = "the worker stopped during the run; whether the agent answered is not known"
NEVER = frozenset({Status.REMOVED, Status.PAUSED})  # no schedule of these runs


def tick(now: datetime) -> dict[str, int]:
    """One look at the table; returns what was done. A second one right after it changes nothing."""
    done: Counter[str] = Counter(claimed=0, native=0, rung=0, lost=0, computed=0, errors=0)
    due, in_flight = _look(now)
    for row in in_flight:
        _attempt(done, row, partial(_look_after, row))
    native = self_scheduling({row.workspace_id for row in due})
    for row in due:
        _attempt(done, row, partial(_claim, row, now, is_native=row.workspace_id in native))
    for name, number in done.items():
        if number:
            tally.add("molecule_scheduler_rows_total", number, outcome=name)
    if any(done.values()):
        log.info("scheduler.ticked", **done)
    return dict(done)


def _look(now: datetime) -> tuple[list[Schedule], list[Schedule]]:
    """What is due, the oldest first, and what is on its way. A schedule does not overlap itself."""
    when = Q(next_run_at__lte=now) | Q(next_run_at__isnull=True)
    due = Schedule.objects.filter(when, enabled=True, slot__isnull=True).exclude(workspace__status__in=NEVER)
    with bounded():
        return list(due.order_by("next_run_at")[:BATCH]), list(
            Schedule.objects.in_flight().order_by("slot")[: 2 * BATCH]
        )


def _attempt(done: Counter[str], row: Schedule, act: Callable[[], str | None]) -> None:
    """One row that cannot be handled stops no other."""
    try:
        if outcome := act():
            done[outcome] += 1
    except DatabaseError:
        log.exception("scheduler.row_failed", schedule_id=str(row.pk))
        done["errors"] += 1


def _look_after(row: Schedule) -> str | None:
    """What became of a claim: nobody has begun, so it is rung for again; or its worker has died."""
    if row.lease_expires_at is None:
        enqueue(Job.SCHEDULE_FIRE, schedule_id=row.pk)
        return "rung"
    if not row.is_abandoned:
        return None
    outcome = Outcome(ERROR, error=WORKER_LOST)
    return "lost" if finish(row, outcome, began=row.lease_expires_at, only_abandoned=True) else None


def _claim(seen: Schedule, now: datetime, *, is_native: bool) -> str | None:
    """Of any number of schedulers one gets the run. None: another one has it, or it was changed meanwhile."""
    try:
        following = next_run(seen.cron_expr, seen.timezone, now)
    except DomainError as error:
        return _unanswerable(seen, error.text)
    with bounded():
        rows = Schedule.objects.filter(
            pk=seen.pk, enabled=True, slot__isnull=True, next_run_at=seen.next_run_at
        )
        row = rows.select_for_update(skip_locked=True).first()
        if row is None:
            return None
        due, row.next_run_at, row.consecutive_slot_errors = row.next_run_at, following, 0
        fires = due is not None and not is_native
        if fires:
            row.slot = due
        row.save(update_fields=["next_run_at", "consecutive_slot_errors", "slot"])
        if fires:
            enqueue(Job.SCHEDULE_FIRE, schedule_id=row.pk)
    if due is None:
        return "computed"
    return "native" if is_native else "claimed"


def _unanswerable(seen: Schedule, reason: str) -> str | None:
    """Its old time stays, so that somebody who mends the row loses nothing; it is switched off in the end."""
    with bounded():
        rows = Schedule.objects.filter(pk=seen.pk, enabled=True, next_run_at=seen.next_run_at)
        row = rows.select_for_update(skip_locked=True).first()
        if row is None:
            return None
        row.consecutive_slot_errors += 1
        row.enabled = row.consecutive_slot_errors < MOST_SLOT_ERRORS
        row.last_status, row.last_error = ERROR, f"{UNANSWERABLE}: {reason}"
        row.save(update_fields=["consecutive_slot_errors", "enabled", "last_status", "last_error"])
    log.warning("schedule.unanswerable", schedule_id=str(row.pk), reason=reason, is_off=not row.enabled)
    return "errors"


def self_scheduling(workspace_ids: set[UUID]) -> set[UUID]:
    """Those whose runtime says that it keeps its schedules itself."""
    ids = sorted(workspace_ids)
    if not ids:
        return set()
    try:
        stored = client().mget([runtime_key(one) for one in ids])
    except redis.RedisError as error:
        log.warning("cache.unavailable", error=str(error))
        return set()
    return {one for one, known in zip(ids, stored, strict=True) if _declares(known)}  # type: ignore[arg-type]


def _declares(known: object) -> bool:
    try:
        declared = orjson.loads(known) if isinstance(known, bytes) else {}
    except orjson.JSONDecodeError:
        return False
    capabilities = declared.get("capabilities") if isinstance(declared, dict) else None
    return isinstance(capabilities, dict) and capabilities.get("scheduler") is True
