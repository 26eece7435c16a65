"""The queue of messages whose target was busy: put in, taken by one, brought to an end.

Every claim is a short transaction with a lease; every end repeats what it believed. Source:
docs/reference/a2a.md, The queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from a2a import hooks
from a2a.callers import Caller
from a2a.envelope import message_id
from a2a.models import ACTIVE, QueueItem, QueueStatus
from a2a.results import Result
from a2a.services.messages import close_unsent
from activity.redaction import storable
from activity.tally import tally
from config.leases import LEASE, Keeper
from config.locks import lock_in_transaction
from config.states import update_returning
from workspaces.cache import ask_for_slot

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 5
SUPERSEDED = "superseded"
_COLUMNS = ", ".join(str(column.column) for column in QueueItem._meta.concrete_fields)
# Of the workspace's own tasks and of what is being sent to it from here, the larger counts: the agent reports
# a message it works on, too.
_CLAIM = f"""
UPDATE a2a_queue SET status = 'dispatched', attempts = attempts + 1, dispatched_at = now(),
    lease_expires_at = now() + %(lease)s, next_attempt_at = NULL
WHERE id = (
    SELECT q.id FROM a2a_queue q JOIN workspaces w ON w.id = q.workspace_id
    WHERE q.workspace_id = %(workspace_id)s AND q.status = 'queued'
    AND (q.expires_at IS NULL OR q.expires_at > now())
    AND (q.next_attempt_at IS NULL OR q.next_attempt_at <= now())
    AND greatest(w.active_tasks, (SELECT count(*) FROM a2a_queue sent WHERE sent.workspace_id = w.id
                                  AND sent.status = 'dispatched')) < w.max_concurrent_tasks
    ORDER BY q.priority DESC, q.enqueued_at, q.id LIMIT 1 FOR UPDATE OF q SKIP LOCKED)
RETURNING {_COLUMNS}
"""


@dataclass(frozen=True)
class Queued:
    """The message in the queue, and how many wait for the same target."""

    item: QueueItem
    depth: int


@transaction.atomic
def enqueue_message(
    target_id: UUID,
    envelope: Mapping[str, Any],
    caller: Caller,
    *,
    key: str | None = None,
    expires_at: datetime | None = None,
    delegation_id: str | None = None,
) -> Queued:
    """Keep the message until its target has a hand free. The same message twice is one.

    `key` stands for the message instead of its id. The caller has been admitted.
    """
    key = storable(key or message_id(dict(envelope))) or None
    if key:
        _retire_expired(target_id, key)
    item = QueueItem(
        workspace_id=target_id,
        caller_id=caller.id,
        caller_kind=caller.kind.value,
        caller_label=caller.label or None,
        body=storable(dict(envelope)),
        method=storable(str(envelope.get("method") or "")) or None,
        idempotency_key=key,
        expires_at=expires_at or _expiry(envelope),
        delegation_id=delegation_id,
        enqueued_at=timezone.now(),
    )
    QueueItem.objects.bulk_create([item], ignore_conflicts=True)
    if key:
        item = QueueItem.objects.get(workspace_id=target_id, idempotency_key=key, status__in=ACTIVE)
    depth = depth_of(target_id)
    transaction.on_commit(lambda: ask_for_slot(target_id), robust=True)
    return Queued(item, depth)


def depth_of(target_id: UUID) -> int:
    return QueueItem.objects.filter(workspace_id=target_id, status=QueueStatus.QUEUED).count()


def has_waiting(workspace_id: UUID) -> bool:
    """Whether a message waits for the workspace or is being sent to it: then it is not idle."""
    rows = QueueItem.objects.filter(workspace_id=workspace_id)
    return any(rows.filter(status=status).exists() for status in sorted(ACTIVE))  # each has its partial index


def _retire_expired(target_id: UUID, key: str) -> None:
    """Else the expired one would swallow the new one."""
    rows = QueueItem.objects.filter(
        workspace_id=target_id, idempotency_key=key, status=QueueStatus.QUEUED, expires_at__lte=timezone.now()
    )
    for item in rows.select_for_update(skip_locked=True):
        drop(item, SUPERSEDED)


def _expiry(envelope: Mapping[str, Any]) -> datetime | None:
    params = envelope.get("params")
    seconds = params.get("expires_in_seconds") if isinstance(params, dict) else None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 10**9:
        return None
    return timezone.now() + timedelta(seconds=seconds)


def active_item(target_id: UUID, key: str) -> QueueItem | None:
    """The queued or running message of this id."""
    return QueueItem.objects.filter(workspace_id=target_id, idempotency_key=key, status__in=ACTIVE).first()


@transaction.atomic
def claim(workspace_id: UUID) -> QueueItem | None:
    """Take the next message that is due, when the workspace has a hand free; of any number who ask one
    gets it.
    """
    lock_in_transaction(f"a2a-claim:{workspace_id}")
    found = QueueItem.objects.raw(_CLAIM, {"workspace_id": workspace_id, "lease": LEASE})
    return next(iter(found), None)


@dataclass(frozen=True)
class Fate:
    """What becomes of a message that was sent from the queue.

    `gives_back`: it surely did not arrive, so the attempt does not count. `stops`: the target takes nothing
    more now.
    """

    status: QueueStatus
    error: str = ""
    wait: timedelta | None = None
    gives_back: bool = False
    is_settling: bool = False
    stops: bool = False
    columns: dict[str, Any] = field(default_factory=dict)


@transaction.atomic
def finish(item: QueueItem, fate: Fate, result: Result | None) -> QueueItem | None:
    """Write the fate of a claimed message; None when the claim is no longer ours. An end is told to the
    room it came from in the same transaction.
    """
    changes: dict[str, Any] = {"status": fate.status, "lease_expires_at": None, **fate.columns}
    if fate.error:
        changes["last_error"] = fate.error
    if fate.status == QueueStatus.QUEUED:
        changes["next_attempt_at"] = Now() + (fate.wait or timedelta())
        if fate.gives_back:
            changes["attempts"] = F("attempts") - 1
        if fate.is_settling:
            changes["settling_since"] = Coalesce("settling_since", Now())
    else:
        changes["completed_at"] = Now()
    mine = QueueItem.objects.filter(pk=item.pk, status=QueueStatus.DISPATCHED, attempts=item.attempts)
    stored = next(iter(update_returning(mine, **changes)), None)
    if stored is None:
        log.info("queue.claim_lost", queue_id=str(item.pk))
        return None
    if fate.status == QueueStatus.QUEUED:
        transaction.on_commit(lambda: ask_for_slot(item.workspace_id), robust=True)
    else:
        _told(stored, result)
    return stored


@transaction.atomic
def drop(item: QueueItem, reason: str) -> bool:
    """Give up a message that waits, with a reason that stays; its delegation ends in the same transaction."""
    said = f"{item.last_error}; {reason}" if item.last_error else reason
    rows = QueueItem.objects.filter(pk=item.pk, status=QueueStatus.QUEUED)
    dropped = update_returning(
        rows, status=QueueStatus.DROPPED, last_error=said, completed_at=Now(), next_attempt_at=None
    )
    for one in dropped:
        _told(one, None)
    return bool(dropped)


def _told(item: QueueItem, result: Result | None) -> None:
    outcome = str(item.status)
    if item.status in {QueueStatus.FAILED, QueueStatus.DROPPED}:
        close_unsent(item)
    for hook in hooks.settled:
        hook(item, result)
    transaction.on_commit(
        lambda: tally.add("molecule_a2a_queue_outcomes_total", outcome=outcome), robust=True
    )


def take_back(delegation_id: str) -> int:
    """Drop what still waits for a delegation that has ended, without telling it so. What is being claimed at
    this moment is left: whoever claims it asks whether it is wanted.
    """
    waiting = QueueItem.objects.filter(delegation_id=delegation_id, status=QueueStatus.QUEUED)
    ids = list(waiting.select_for_update(skip_locked=True).values_list("pk", flat=True))
    if not ids:
        return 0
    return QueueItem.objects.filter(pk__in=ids).update(
        status=QueueStatus.DROPPED, last_error="the delegation has ended", completed_at=Now()
    )


def renew(ids: list[str]) -> int:
    held = QueueItem.objects.filter(pk__in=ids, status=QueueStatus.DISPATCHED)
    return held.update(lease_expires_at=Now() + LEASE)


keeper = Keeper(renew)
