"""The sweep over the queue: what expired, what a dead worker left, what can be sent, what is old.

Source: docs/reference/a2a.md, The sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import Q

from a2a.models import FINAL, QueueItem, QueueStatus
from a2a.services import messages, queue
from a2a.services.queue import MOST_ATTEMPTS, Fate
from config.jobs import Job, enqueue
from workspaces.models import ALIVE

log = structlog.get_logger(__name__)

BATCH = 200
EXPIRED = "expired before delivery"
LOST = "its sender was lost"
# Whoever has a hand free, called within the liveness window, and has something due.
_ROOM = """
SELECT DISTINCT q.workspace_id FROM a2a_queue q JOIN workspaces w ON w.id = q.workspace_id
WHERE q.status = 'queued' AND (q.next_attempt_at IS NULL OR q.next_attempt_at <= %(now)s)
AND w.status = ANY(%(alive)s) AND w.active_tasks < w.max_concurrent_tasks
AND w.last_heartbeat_at > %(recent)s LIMIT %(limit)s
"""


def sweep_queue(now: datetime) -> dict[str, int]:
    """One run; returns what it did."""
    waiting = QueueItem.objects.filter(status=QueueStatus.QUEUED)
    expired = waiting.filter(expires_at__lte=now).order_by("expires_at")[:BATCH]
    lost = QueueItem.objects.filter(status=QueueStatus.DISPATCHED, lease_expires_at__lt=now)[:BATCH]
    done = {
        "expired": _each(expired, lambda item: queue.drop(item, EXPIRED)),
        "returned": _each(lost, _return),
        "drained": _ring(now),
        "abandoned": messages.close_abandoned(now, most=BATCH),
        "purged": _purge(now),
    }
    if any(done.values()):
        log.info("a2a_queue.swept", **done)
    return done


def _each(items: Iterable[QueueItem], act: Callable[[QueueItem], bool]) -> int:
    """Each in a transaction of its own, skipping what somebody holds: one bad row stops no other."""
    count = 0
    for item in items:
        try:
            with transaction.atomic():
                rows = QueueItem.objects.select_for_update(skip_locked=True)
                held = rows.filter(pk=item.pk, status=item.status, attempts=item.attempts).first()
                count += bool(held is not None and act(held))
        except DatabaseError:
            log.exception("a2a_queue.sweep_failed", queue_id=str(item.pk))
    return count


def _return(item: QueueItem) -> bool:
    """The worker that sent it died: nobody knows whether it arrived, so the attempt counts."""
    is_over = item.attempts >= MOST_ATTEMPTS
    fate = Fate(QueueStatus.FAILED if is_over else QueueStatus.QUEUED, LOST)
    return queue.finish(item, fate, None) is not None


def _ring(now: datetime) -> int:
    recent = now - timedelta(seconds=settings.REMOTE_LIVENESS_STALE_AFTER)
    values: dict[str, Any] = {"now": now, "alive": sorted(ALIVE), "recent": recent, "limit": BATCH}
    with connection.cursor() as cursor:
        cursor.execute(_ROOM, values)
        ids: list[UUID] = [row[0] for row in cursor.fetchall()]
    for one in ids:
        enqueue(Job.A2A_DRAIN, workspace_id=one)
    return len(ids)


def _purge(now: datetime) -> int:
    old = now - timedelta(days=settings.A2A_QUEUE_RETENTION_DAYS)
    rows = QueueItem.objects.filter(completed_at__lt=old, status__in=FINAL).values("pk")[:BATCH]
    deleted, _ = QueueItem.objects.filter(pk__in=rows).delete()
    return deleted


def drop_stale(now: datetime, *, older_than: timedelta, workspace_id: UUID | None) -> int:
    """Give up what has waited longer than `older_than`; an operator's wish."""
    stale = Q(status=QueueStatus.QUEUED, enqueued_at__lt=now - older_than)
    if workspace_id is not None:
        stale &= Q(workspace_id=workspace_id)
    reason = f"dropped by an operator at {now:%Y-%m-%dT%H:%M:%SZ}"
    return _each(list(QueueItem.objects.filter(stale)), lambda item: queue.drop(item, reason))
