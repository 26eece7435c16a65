"""The sweep over delegations: what is overdue, silent, unsent, orphaned or owed, and what is old.

One query finds what is due and why; each row is then locked, judged again and changed in a transaction of
its own, so that one bad row stops no other. Source: docs/reference/delegations.md, The sweeper.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import F

from activity.tally import tally
from config.jobs import Job, enqueue
from config.states import update_returning
from delegations.models import IN_FLIGHT, TERMINAL, Delegation, Status
from delegations.previews import shown_duration
from delegations.services.removal import CALLEE_GONE, CALLER_GONE
from delegations.services.transitions import Change, locked, tell_owed, transition

log = structlog.get_logger(__name__)

BATCH = 500
MOST = 10_000  # rows of one run
STARTS = 5
OVERDUE = "deadline exceeded by sweeper"
UNSENT = "could not be dispatched"


class Arm(StrEnum):
    """Why a row is due; the first that holds counts."""

    OVERDUE = "overdue"
    CALLEE_GONE = "callee_gone"
    CALLER_GONE = "caller_gone"
    UNSENT = "unsent"
    SILENT = "silent"
    ORPHANED = "orphaned"  # its dispatcher died


@dataclass(frozen=True)
class Due:
    delegation_id: str
    arm: Arm
    since: datetime  # the last sign of life, or when it was dispatched


def _quoted(statuses: frozenset[Status]) -> str:
    return ", ".join(f"'{one}'" for one in sorted(statuses))


# A callee's own heartbeat counts only while `trusts_callees`: while the server was down nobody could beat.
_DUE = f"""
SELECT d.delegation_id,
    CASE WHEN d.deadline < %(now)s THEN 'overdue'
         WHEN callee.status = 'removed' THEN 'callee_gone'
         WHEN caller.status = 'removed' THEN 'caller_gone'
         WHEN d.status = 'queued' AND d.lease_expires_at IS NULL AND d.updated_at < %(unsent)s THEN 'unsent'
         WHEN d.status <> 'stuck' AND sign.life < %(silent)s THEN 'silent'
         WHEN d.status = 'dispatched' AND d.delivery = 'direct' AND d.lease_expires_at < %(now)s
         THEN 'orphaned' END AS arm,
    coalesce(sign.life, d.dispatched_at, d.created_at), d.dispatched_at
FROM delegations d
LEFT JOIN workspaces callee ON callee.id = d.callee_id
LEFT JOIN workspaces caller ON caller.id = d.caller_id
CROSS JOIN LATERAL (SELECT coalesce(d.last_heartbeat,
    CASE WHEN %(trusts_callees)s AND callee.last_heartbeat_at IS NOT NULL
         THEN greatest(callee.last_heartbeat_at, coalesce(d.dispatched_at, d.created_at)) END) AS life) sign
WHERE d.status IN ({_quoted(IN_FLIGHT)}) AND NOT (d.delegation_id = ANY(%(seen)s))
AND (d.deadline < %(now)s OR callee.status = 'removed' OR caller.status = 'removed'
     OR (d.status = 'queued' AND d.lease_expires_at IS NULL AND d.updated_at < %(unsent)s)
     OR (d.status <> 'stuck' AND sign.life < %(silent)s)
     OR (d.status = 'dispatched' AND d.delivery = 'direct' AND d.lease_expires_at < %(now)s))
ORDER BY d.deadline LIMIT %(limit)s
"""
_OWED = f"""
SELECT delegation_id FROM delegations
WHERE inline_until < %(now)s AND notified_at IS NULL AND status IN ({_quoted(TERMINAL)}) LIMIT %(limit)s
"""
_PURGE = """
DELETE FROM delegations WHERE delegation_id IN (
    SELECT delegation_id FROM delegations WHERE finished_at < %(before)s
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
"""


def sweep(now: datetime, *, up_since: datetime) -> dict[str, int]:
    """One run; returns what it did. A second one right after it changes nothing.

    `up_since`: since when the server could have heard heartbeats.
    """
    done: Counter[str] = Counter(
        deadline_failures=0,
        stuck_marked=0,
        redispatched=0,
        reply_errors=0,
        errors=0,
        closed=0,
        told=0,
        purged=0,
    )
    threshold = timedelta(seconds=settings.DELEGATION_STUCK_THRESHOLD_S)
    trusts_callees = now - up_since >= threshold
    seen: list[str] = []
    while len(seen) < MOST:
        batch = due(now, threshold=threshold, trusts_callees=trusts_callees, seen=seen)
        for one in batch:
            seen.append(one.delegation_id)
            _attempt(done, partial(_apply, one, now), one.delegation_id)
        if len(batch) < BATCH:
            break
    for delegation_id in _owed(now):
        _attempt(done, partial(_tell, delegation_id), delegation_id, failure="reply_errors")
    done["purged"] = _purge(now)
    _report(done)
    return dict(done)


def due(now: datetime, *, threshold: timedelta, trusts_callees: bool, seen: list[str]) -> list[Due]:
    """What is due and why, the most urgent first."""
    values: dict[str, Any] = {
        "now": now,
        "silent": now - threshold,
        "unsent": now - timedelta(seconds=settings.DELEGATION_REDISPATCH_AFTER_S),
        "trusts_callees": trusts_callees,
        "seen": seen,
        "limit": BATCH,
    }
    with connection.cursor() as cursor:
        cursor.execute(_DUE, values)
        return [
            Due(one, Arm(arm), dispatched if arm == Arm.ORPHANED and dispatched else life)
            for one, arm, life, dispatched in cursor.fetchall()
        ]


def _attempt(done: Counter[str], act: Any, delegation_id: str, *, failure: str = "errors") -> None:
    try:
        if outcome := act():
            done[outcome] += 1
    except DatabaseError:
        log.exception("delegation.sweep_failed", delegation_id=delegation_id)
        done[failure] += 1


def _apply(one: Due, now: datetime) -> str | None:
    """The name of what was done, None when the row is held or no longer due."""
    if one.arm == Arm.UNSENT:
        return _begin_again(one.delegation_id, now)
    change = _change(one, now)
    moved = transition(one.delegation_id, change, skips_locked=True).moved
    return _NAMES[one.arm] if moved else None


_NAMES = {
    Arm.OVERDUE: "deadline_failures",
    Arm.CALLEE_GONE: "closed",
    Arm.CALLER_GONE: "closed",
    Arm.SILENT: "stuck_marked",
    Arm.ORPHANED: "stuck_marked",
}


def _change(one: Due, now: datetime) -> Change:
    """What an arm does, with what must still hold once the row is locked."""
    silence = f"no heartbeat for {shown_duration((now - one.since).total_seconds())}"
    match one.arm:
        case Arm.OVERDUE:
            return Change(Status.FAILED, error=OVERDUE, via="sweeper", only_if=lambda row: row.deadline < now)
        case Arm.CALLEE_GONE:
            return Change(Status.FAILED, error=CALLEE_GONE, via="removal")
        case Arm.CALLER_GONE:
            return Change(Status.FAILED, error=CALLER_GONE, via="removal")
        case Arm.ORPHANED:
            return Change(
                Status.STUCK,
                error=f"{silence} (dispatcher lost)",
                via="sweeper",
                only_if=lambda row: row.lease_expires_at is not None and row.lease_expires_at < now,
                columns={"lease_expires_at": None},
            )
    return Change(
        Status.STUCK,
        error=silence,
        via="sweeper",
        only_if=lambda row: row.last_heartbeat is None or row.last_heartbeat <= one.since,
    )


def _begin_again(delegation_id: str, now: datetime) -> str | None:
    """Nothing was sent, so it may be begun again; not for ever."""
    before = now - timedelta(seconds=settings.DELEGATION_REDISPATCH_AFTER_S)

    def is_unsent(row: Delegation) -> bool:
        return row.status == Status.QUEUED and row.updated_at < before

    with transaction.atomic():
        row = locked(delegation_id, skips_locked=True)
        if row is None or not is_unsent(row):
            return None
        if row.retry_count >= STARTS:
            change = Change(Status.FAILED, error=UNSENT, via="sweeper", only_if=is_unsent)
            return "deadline_failures" if transition(delegation_id, change).moved else None
        rows = Delegation.objects.filter(pk=delegation_id)
        update_returning(rows, retry_count=F("retry_count") + 1, updated_at=now)
        enqueue(Job.DELEGATE, delegation_id=delegation_id)
    return "redispatched"


def _owed(now: datetime) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_OWED, {"now": now, "limit": BATCH})
        return [row[0] for row in cursor.fetchall()]


def _tell(delegation_id: str) -> str | None:
    return "told" if tell_owed(delegation_id) else None


def _purge(now: datetime) -> int:
    """Delete what ended long ago, a batch a run."""
    days = settings.DELEGATION_RETENTION_DAYS
    if not days:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_PURGE, {"before": now - timedelta(days=days), "limit": MOST})
        return int(cursor.rowcount)


_OUTCOMES = {
    "deadline_failures": "deadline_failed",
    "stuck_marked": "stuck",
    "redispatched": "redispatched",
    "reply_errors": "reply_error",
    "errors": "error",
}


def _report(done: Counter[str]) -> None:
    for name, outcome in _OUTCOMES.items():
        if done[name]:
            tally.add("molecule_delegation_sweeps_total", done[name], outcome=outcome)
    if any(done.values()):
        log.info("delegation.swept", **done)
