"""Verbs over the activity log: the one writer, acknowledgements, messages to the user.

Source: docs/reference/activity.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from activity.events import EventType, Frame, broadcast, publish_on_commit
from activity.models import ActivityLog
from activity.redaction import scrubbed, storable
from config.http import rfc3339, to_json
from config.locks import lock_in_transaction

SUMMARY_CHARS = 2000
ERROR_CHARS = 8192
FRAME_BODY_BYTES = 64 * 1024
INBOX_TYPE = "a2a_receive"
NOTIFY_METHOD = "notify"

_NEXT_PLACE = """
SELECT greatest(clock_timestamp(), (SELECT created_at FROM activity_logs
                                    WHERE workspace_id = %s ORDER BY seq DESC LIMIT 1)),
       nextval('activity_logs_seq')
"""

_ACK = """
INSERT INTO inbox_delivery_state (workspace_id, last_acked_seq, updated_at) VALUES (%s, %s, now())
ON CONFLICT (workspace_id) DO UPDATE
SET updated_at = now(),
    last_acked_seq = greatest(inbox_delivery_state.last_acked_seq, EXCLUDED.last_acked_seq)
RETURNING last_acked_seq
"""


@transaction.atomic
def log_activity(
    *,
    workspace_id: UUID,
    activity_type: str,
    announce: bool,
    source_id: UUID | None = None,
    target_id: UUID | None = None,
    method: str | None = None,
    summary: str | None = None,
    request_body: Any = None,
    response_body: Any = None,
    tool_trace: Any = None,
    duration_ms: int | None = None,
    status: str = "ok",
    error_detail: str | None = None,
    message_id: str | None = None,
) -> ActivityLog:
    """Append one line to a workspace's feed; `announce` also publishes ACTIVITY_LOGGED on commit.

    The only code that inserts activity. It takes the feed's lock, so it must be the last write of the
    caller's
    transaction: readers then never see a row before an earlier one. Texts are cut, never refused.
    """
    created_at, seq = _next_place(workspace_id)
    row = ActivityLog.objects.create(
        seq=seq,
        workspace_id=workspace_id,
        activity_type=activity_type,
        source_id=source_id,
        target_id=target_id,
        method=storable(method) or None,
        summary=(storable(summary) or "")[:SUMMARY_CHARS] or None,
        request_body=storable(request_body),
        response_body=storable(response_body),
        tool_trace=storable(tool_trace),
        duration_ms=duration_ms,
        status=(storable(status) or "ok")[:32],
        error_detail=(storable(error_detail) or "")[:ERROR_CHARS] or None,
        message_id=message_id,
        created_at=created_at,
    )
    if announce:
        publish_on_commit(Frame(EventType.ACTIVITY_LOGGED, workspace_id, created_at, announcement(row)))
    return row


def _next_place(workspace_id: UUID) -> tuple[datetime, int]:
    """The row's time and number, handed out under the feed's lock so that both agree with the order of
    commit.
    """
    lock_in_transaction(f"activity:{workspace_id}")
    with connection.cursor() as cursor:
        cursor.execute(_NEXT_PLACE, [workspace_id])
        created_at, seq = cursor.fetchone()
    return created_at, seq


def announcement(row: ActivityLog) -> dict[str, Any]:
    """The payload of ACTIVITY_LOGGED; bodies larger than 64 KiB are replaced by their size."""
    payload: dict[str, Any] = {
        "id": str(row.pk),
        "seq": row.seq,
        "created_at": rfc3339(row.created_at),
        "activity_type": row.activity_type,
        "method": row.method,
        "summary": row.summary,
        "status": row.status,
        "source_id": str(row.source_id) if row.source_id else None,
        "target_id": str(row.target_id) if row.target_id else None,
        "duration_ms": row.duration_ms,
    }
    for key in ("tool_trace", "request_body", "response_body"):
        body = getattr(row, key)
        if body is not None:
            payload[key] = _capped(body)
    if row.error_detail:
        payload["error_detail"] = scrubbed(row.error_detail)
    return payload


def _capped(body: Any) -> Any:
    size = len(to_json(body))
    return body if size <= FRAME_BODY_BYTES else {"truncated": True, "bytes": size}


def acknowledge(*, workspace_id: UUID, seq: int) -> int:
    """Record how far the workspace consumed its inbox; returns the highest number ever given. Never falls."""
    with connection.cursor() as cursor:
        cursor.execute(_ACK, [workspace_id, seq])
        (acked,) = cursor.fetchone()
    return int(acked)


@transaction.atomic
def message_user(
    *, workspace_id: UUID, name: str, message: str, attachments: Sequence[Mapping[str, Any]] = ()
) -> ActivityLog:
    """An agent's message to the person at the canvas: the row first, the bubble once it is stored."""
    payload: dict[str, Any] = {"message": message, "workspace_id": str(workspace_id), "name": name}
    response: dict[str, Any] = {"result": message}
    if attachments:
        payload["attachments"] = [dict(one) for one in attachments]
        response["parts"] = [{"kind": "file", "file": dict(one)} for one in attachments]
    broadcast(EventType.AGENT_MESSAGE, workspace_id, storable(payload))
    return log_activity(
        workspace_id=workspace_id,
        activity_type=INBOX_TYPE,
        method=NOTIFY_METHOD,
        summary=message[:200],
        response_body=response,
        announce=False,
    )
