"""Sending what waits for a workspace, as far as it has hands free.

Several drains of one workspace may run: the claim counts what is being sent, and hands each message to one.
Source: docs/reference/a2a.md, The drain.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.utils import timezone

from a2a import dispatch, hooks
from a2a.models import QueueItem, QueueStatus
from a2a.results import ANSWERS, Delivered, Kind, Result
from a2a.services import queue
from a2a.services.queue import MOST_ATTEMPTS, Fate
from a2a.services.targets import beat_recently
from provisioning.services import is_context_pending
from workspaces.cache import ask_for_slot
from workspaces.models import ALIVE, Workspace

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 8
PAUSE = timedelta(seconds=5)
NOT_WANTED = "the delegation has ended"


def drain(workspace_id: UUID) -> int:
    """Send what is due, at most as much as there was room for when it began; returns how many messages."""
    target = Workspace.objects.filter(pk=workspace_id, status__in=ALIVE).first()
    if target is None or is_context_pending(workspace_id):  # its first turn after a restart is the server's
        return 0
    sent = 0
    for _ in range(min(target.max_concurrent_tasks - target.active_tasks, MOST_AT_ONCE)):
        item = queue.claim(workspace_id)
        if item is None:
            break
        sent += 1
        if _deliver(item).stops:
            break
    if queue.depth_of(workspace_id):
        ask_for_slot(workspace_id)
    return sent


def _deliver(item: QueueItem) -> Fate:
    """Send one claimed message and write down what became of it."""
    if item.delegation_id and not all(hook(item.delegation_id) for hook in hooks.is_wanted):
        fate = Fate(QueueStatus.DROPPED, NOT_WANTED)
        queue.finish(item, fate, None)
        return fate
    with queue.keeper.keeping(str(item.pk)):
        terms = dispatch.Terms(queues=False, attempt=item.attempts)
        result = dispatch.proxy_a2a(item.workspace_id, item.body, item.caller, terms)
        target = Workspace.objects.filter(pk=item.workspace_id).first()
        is_fresh = target is not None and beat_recently(target, timezone.now())
        fate = fate_of(item, result, now=timezone.now(), is_fresh=is_fresh)
        queue.finish(item, fate, result)
    log.info("a2a.drained", queue_id=str(item.pk), kind=result.kind, fate=fate.status, attempt=item.attempts)
    return fate


def fate_of(item: QueueItem, result: Result, *, now: datetime, is_fresh: bool) -> Fate:
    """What an outcome means for a queued message. Pure; `is_fresh`: its target called a moment ago."""
    if result.kind in ANSWERS:
        return Fate(QueueStatus.COMPLETED, columns={"response_body": result.body})
    if result.kind == Kind.QUEUED_POLL:
        return Fate(QueueStatus.COMPLETED)
    if result.kind == Kind.LOST_RESPONSE:
        return Fate(QueueStatus.COMPLETED, result.error)
    is_passing_gateway = result.is_gateway and is_fresh and result.delivered == Delivered.NO
    if result.kind in {Kind.SETTLING, Kind.WAKING} or is_passing_gateway:
        return _settling(item, result, now)
    if result.kind == Kind.BUSY and result.delivered == Delivered.NO:
        return Fate(QueueStatus.QUEUED, result.error, wait=PAUSE, gives_back=True, stops=True)
    if dispatch.is_final(result):  # refused, or processed and answered with an error: repeating cannot help
        return Fate(QueueStatus.FAILED, result.error)
    if item.attempts >= MOST_ATTEMPTS:
        return Fate(QueueStatus.FAILED, result.error)
    return Fate(QueueStatus.QUEUED, result.error, wait=PAUSE * item.attempts, stops=True)


def _settling(item: QueueItem, result: Result, now: datetime) -> Fate:
    """Bounded from the first passing failure on, not from when the message was queued."""
    ceiling = timedelta(seconds=settings.A2A_SETTLING_RETRY_CEILING_S)
    if item.settling_since is not None and now - item.settling_since >= ceiling:
        return Fate(QueueStatus.DROPPED, f"{result.error} (given up after {ceiling.total_seconds():.0f} s)")
    return Fate(QueueStatus.QUEUED, result.error, wait=PAUSE, gives_back=True, is_settling=True, stops=True)
