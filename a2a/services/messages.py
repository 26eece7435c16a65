"""The row of a message in its target's feed: written at receipt, completed when the outcome is known.

Source: docs/reference/a2a.md, The row and the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from a2a import hooks
from a2a.answers import tool_trace, usage
from a2a.callers import Caller, CallerKind
from a2a.envelope import message_id
from a2a.models import QueueItem
from a2a.results import ANSWERS, Kind, Result
from activity.events import EventType, broadcast
from activity.models import ActivityLog
from activity.services import INBOX_TYPE, complete_activity, log_activity
from config.locks import lock_in_transaction
from workspaces.models import DeliveryMode, Workspace
from workspaces.services import note_outbound, record_usage

PENDING = "pending"
LONGEST_TURN = timedelta(hours=1)  # after which nobody works on a message that is still pending


ABANDONED = "the server stopped while the agent was asked; whether it answered is not known"


@dataclass(frozen=True)
class Ingested:
    """`is_in_flight`: the same message came before, and its agent is still thinking."""

    row: ActivityLog
    is_repeat: bool = False
    is_in_flight: bool = False


@transaction.atomic
def ingest(target: Workspace, caller: Caller, envelope: dict[str, Any]) -> Ingested:
    """Store the message before anything is sent: a crash loses the answer, never the message.

    A repeated `messageId` gives the stored row.
    """
    known_id = message_id(envelope)
    if known_id:
        lock_in_transaction(f"a2a:{target.pk}:{known_id}")  # of two that come at once one is the repeat
        known = ActivityLog.objects.filter(workspace_id=target.pk, message_id=known_id).first()
        if known is not None:
            is_young = timezone.now() - known.created_at < LONGEST_TURN
            return Ingested(known, True, is_in_flight=known.status == PENDING and is_young)
    if caller.id is not None and caller.id != target.pk:
        for hook in hooks.said:
            hook(caller.id, target.pk, envelope)
    is_poll = target.delivery_mode == DeliveryMode.POLL
    method = _method(envelope)
    row = log_activity(
        workspace_id=target.pk,
        activity_type=INBOX_TYPE,
        announce=is_poll,
        source_id=caller.id,
        target_id=target.pk,
        method=method,
        summary=f"{_sender(caller)}{method} → {target.name}{' (queued for poll)' if is_poll else ''}",
        request_body=envelope,
        message_id=known_id,
        status="ok" if is_poll else PENDING,
    )
    return Ingested(row)


def _sender(caller: Caller) -> str:
    return f"{caller.label}: " if caller.kind == CallerKind.SYSTEM else ""


def _method(envelope: dict[str, Any]) -> str:
    method = envelope.get("method")
    return method if isinstance(method, str) else ""


@transaction.atomic
def complete(row: ActivityLog, caller: Caller, name: str, result: Result, duration_ms: int) -> None:
    """Put the outcome into the row and tell the canvases, once.

    What only waits in the queue keeps its row without a duration, and is told of when it is over: a canvas
    takes `ok` with a duration for an answer.
    """
    if result.kind == Kind.QUEUED_BUSY:
        summary = f"{row.method} → {name} (queued: target busy)"
        complete_activity(row_id=row.pk, status="ok", summary=summary, announce=False)
        return
    is_good = result.kind in ANSWERS or result.kind == Kind.LOST_RESPONSE
    changed = complete_activity(
        row_id=row.pk,
        status="ok" if is_good else "error",
        summary=f"{row.method} → {name}" if is_good or result.is_the_agents else _failure(name, result),
        response_body=result.body if result.kind in ANSWERS else None,
        tool_trace=tool_trace(result.body),
        error_detail=None if is_good else result.error,
        duration_ms=max(1, duration_ms),
        announce=True,
        was_queued=True,
    )
    if changed is None or result.kind not in ANSWERS:
        return
    if caller.kind == CallerKind.CANVAS:
        payload = {
            "response_body": result.body,
            "method": changed.method,
            "duration_ms": changed.duration_ms,
            "message_id": changed.message_id,
        }
        broadcast(EventType.A2A_RESPONSE, changed.workspace_id, payload, timestamp=changed.created_at)


def _failure(name: str, result: Result) -> str:
    return f"A2A request to {name} failed: {result.error}"


def close_abandoned(now: datetime, *, most: int) -> int:
    """End the rows whose process died in the middle of a turn: nobody will write what became of them."""
    rows = ActivityLog.objects.filter(
        status=PENDING, activity_type=INBOX_TYPE, created_at__lt=now - LONGEST_TURN
    )
    ids = list(rows.order_by("created_at").values_list("pk", flat=True)[:most])
    closed = [
        complete_activity(row_id=one, status="error", error_detail=ABANDONED, announce=True) for one in ids
    ]
    return sum(1 for row in closed if row is not None)


def close_unsent(item: QueueItem) -> None:
    """A message that waited has been given up: its row says why, and the canvases are told."""
    known_id = message_id(item.body)
    row = ActivityLog.objects.filter(workspace_id=item.workspace_id, message_id=known_id).first()
    if row is None or known_id is None:
        return
    complete_activity(
        row_id=row.pk,
        status="error",
        error_detail=item.last_error or "the message was given up",
        announce=True,
        was_queued=True,
    )


def note_success(target_id: UUID, caller: Caller, result: Result) -> None:
    """What a call that was answered leaves besides: when its sender last spoke, what its target used."""
    if result.kind not in ANSWERS:
        return
    if caller.kind == CallerKind.WORKSPACE and caller.id is not None:
        note_outbound(caller.id)
    used = usage(result.body)
    if used:
        record_usage(
            workspace_id=target_id,
            input_tokens=_count(used.get("input_tokens")),
            output_tokens=_count(used.get("output_tokens")),
        )


def _count(given: Any) -> int:
    return given if isinstance(given, int) and not isinstance(given, bool) else 0
