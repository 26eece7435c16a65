"""What each step of a delegation looks like in the delegator's feed, in its inbox and among the events.

Source: docs/reference/delegations.md, What is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from activity import events
from activity.delegation_lines import DELEGATE, DELEGATION_TYPE, RESULT, Line
from activity.events import EventType
from activity.models import StructureEvent
from activity.services import INBOX_TYPE
from delegations.models import Delegation, Delivery, Status
from delegations.previews import shortened

SENT_CHARS = 100
SUMMARY_CHARS = 80
RESPONSE_CHARS = 200
_WAITS = {
    Delivery.QUEUE: "Delegation queued — target at capacity",
    Delivery.POLL: "Delegation delivered to inbox — awaiting reply",
}


def task_line(
    row: Delegation, *, task: str, attachments: Sequence[Mapping[str, Any]] = (), callee_name: str
) -> Line:
    files = {"attachments": [dict(one) for one in attachments]} if attachments else {}
    return Line(
        activity_type=DELEGATION_TYPE,
        method=DELEGATE,
        source_id=row.caller_id,
        target_id=row.callee_id,
        summary=f"Delegating to {callee_name}",
        status=row.shown,
        request_body={"task": task, "delegation_id": row.pk, **files},
        response_body={"delegation_id": row.pk},
        idempotency_key=row.idempotency_key,
    )


def waiting_line(row: Delegation, delivery: Delivery) -> Line:
    """The place of the result, while the message waits for its reader."""
    return _result(
        row, status="queued", summary=_WAITS[delivery], response={"delegation_id": row.pk, "queued": True}
    )


def result_line(row: Delegation, *, text: str, error: str) -> Line:
    """How it ended, with the whole text."""
    if row.status == Status.COMPLETED:
        summary = f"Delegation completed ({shortened(text, SUMMARY_CHARS)})"
        return _result(
            row, status="completed", summary=summary, response={"text": text, "delegation_id": row.pk}
        )
    summary = f"Delegation failed ({shortened(error, SUMMARY_CHARS)})"
    response = {"error": error, "delegation_id": row.pk}
    return _result(row, status="failed", summary=summary, response=response, error=error)


def _result(
    row: Delegation, *, status: str, summary: str, response: dict[str, Any], error: str | None = None
) -> Line:
    return Line(
        activity_type=DELEGATION_TYPE,
        method=RESULT,
        source_id=row.caller_id,
        target_id=row.callee_id,
        summary=summary,
        status=status,
        request_body={"delegation_id": row.pk},
        response_body=response,
        error_detail=error,
    )


def inbox_copy(row: Delegation, *, text: str, callee_name: str) -> Line:
    """The result as a message from the callee: a polling agent reads it like any other.

    With the delegator as its source the agent would take it for its own word, or answer itself.
    """
    completed = row.status == Status.COMPLETED
    said = f"Delegation {row.pk} to {callee_name} {row.status}:\n{text}"
    message = {
        "role": "agent",
        "messageId": f"{row.pk}:result",
        "parts": [{"kind": "text", "text": said}],
        "metadata": {"delegation_id": row.pk, "status": row.status},
    }
    return Line(
        activity_type=INBOX_TYPE,
        method=RESULT,
        source_id=row.callee_id,
        target_id=row.caller_id,
        summary="Delegation result delivered" if completed else "Delegation failed",
        status="ok" if completed else "error",
        request_body={"delegation_id": row.pk, "params": {"message": message}},
        response_body={"text": text, "delegation_id": row.pk},
        error_detail=None if completed else text,
    )


def sent_event(row: Delegation, task: str) -> StructureEvent:
    return _event(EventType.DELEGATION_SENT, row, task_preview=shortened(task, SENT_CHARS))


def status_event(row: Delegation, shown: str) -> StructureEvent:
    return _event(EventType.DELEGATION_STATUS, row, status=shown)


def end_event(row: Delegation, *, text: str, error: str, via: str) -> StructureEvent:
    """`via` is told when the outcome did not come from the callee's direct answer."""
    how = {"via": via} if via else {}
    if row.status == Status.COMPLETED:
        preview = shortened(text, RESPONSE_CHARS)
        return _event(EventType.DELEGATION_COMPLETE, row, response_preview=preview, **how)
    return _event(EventType.DELEGATION_FAILED, row, error=error, **how)


def _event(event: EventType, row: Delegation, **more: Any) -> StructureEvent:
    target: UUID = row.callee_id  # clients drop an event without it
    return events.unstored(event, row.caller_id, {"delegation_id": row.pk, "target_id": str(target), **more})
