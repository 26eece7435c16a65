"""Verbs over the activity log: the one writer, acknowledgements, messages to the user.

Source: docs/reference/activity.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, IntegrityError, InterfaceError, connection, transaction
from django.db.models import JSONField, Q, Value

from activity.events import EventType, Frame, broadcast, publish_on_commit
from activity.models import ActivityLog
from activity.redaction import scrubbed, storable
from activity.tally import tally
from config.errors import Conflict, datastore_unavailable
from config.http import rfc3339
from config.locks import lock_in_transaction
from config.states import update_returning

log = structlog.get_logger(__name__)

SUMMARY_CHARS = 2000
ERROR_CHARS = 8192
INBOX_TYPE = "a2a_receive"
NOTIFY_METHOD = "notify"
PREVIEW_CHARS = 80

# A microsecond apart: time and number of the rows of one batch agree as well.
_NEXT_PLACES = """
WITH start AS MATERIALIZED (
    SELECT greatest(clock_timestamp(), (SELECT created_at FROM activity_logs
                                        WHERE workspace_id = %s ORDER BY seq DESC LIMIT 1)) AS at)
SELECT start.at + (number - 1) * interval '1 microsecond', nextval('activity_logs_seq')
FROM start, generate_series(1, %s) AS number
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
    idempotency_key: str | None = None,
) -> ActivityLog:
    """Append one line to a workspace's feed; `announce` also publishes ACTIVITY_LOGGED on commit.

    The only code that inserts activity. It takes the feed's lock, so it must be the last write of the
    caller's transaction: readers then never see a row before an earlier one. Texts are cut, never refused.
    A known `message_id` or `idempotency_key` gives the stored row, and nothing is written or announced.
    Raises Conflict for a second result of one delegation.
    """
    ((created_at, seq),) = _next_places(workspace_id, 1)
    message_id, idempotency_key = storable(message_id) or None, storable(idempotency_key) or None
    known = _known(workspace_id, message_id, idempotency_key)
    if known is not None:
        return known
    row = ActivityLog(
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
        idempotency_key=idempotency_key,
        created_at=created_at,
    )
    _insert(row)
    if announce:
        announce_activity(row)
    return row


@transaction.atomic
def log_received_together(
    *, workspace_id: UUID, method: str, entries: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[ActivityLog]:
    """Append several (summary, request body) of one kind from the canvas user to a workspace's inbox, in
    their order, and announce each on commit: the same as `log_activity` for each, in one insert.
    """
    places = _next_places(workspace_id, len(entries))
    rows = [
        ActivityLog(
            seq=seq,
            workspace_id=workspace_id,
            activity_type=INBOX_TYPE,
            target_id=workspace_id,
            method=method,
            summary=storable(summary)[:SUMMARY_CHARS],
            request_body=storable(dict(body)),
            created_at=created_at,
        )
        for (created_at, seq), (summary, body) in zip(places, entries, strict=True)
    ]
    ActivityLog.objects.bulk_create(rows)
    announce_activity(*rows)
    return rows


def _known(workspace_id: UUID, message_id: str | None, idempotency_key: str | None) -> ActivityLog | None:
    """Asked under the feed's lock, hence no race with another insert."""
    if message_id is None and idempotency_key is None:
        return None
    same = Q(message_id=message_id) if message_id else Q(idempotency_key=idempotency_key)
    return ActivityLog.objects.filter(same, workspace_id=workspace_id).first()


def _insert(row: ActivityLog) -> None:
    if row.method != "delegate_result":
        row.save(force_insert=True)
        return
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        if "activity_logs_result_uniq" not in str(error):
            raise
        raise Conflict("the result of this delegation is already logged") from None


def complete_activity(
    *,
    row_id: UUID,
    status: str,
    announce: bool,
    response_body: Any = None,
    tool_trace: Any = None,
    duration_ms: int | None = None,
    summary: str | None = None,
    error_detail: str | None = None,
    was_queued: bool = False,
) -> ActivityLog | None:
    """Put the outcome into a row that was written at receipt; its place in the feed stays.

    Never overwrites a value with nothing, an answer with another, or an `ok` with a late error: then None.
    `was_queued`: the row's `ok` only said that the message waits, so its end may still be an error.
    """
    rows = ActivityLog.objects.filter(pk=row_id, response_body__isnull=True)
    if status != "ok":
        rows = rows.exclude(status="ok", **({"duration_ms__isnull": False} if was_queued else {}))
    given: dict[str, Any] = {
        "duration_ms": duration_ms,
        "summary": (storable(summary) or "")[:SUMMARY_CHARS] or None,
        "error_detail": (storable(error_detail) or "")[:ERROR_CHARS] or None,
        "response_body": _json(response_body),
        "tool_trace": _json(tool_trace),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if status == "ok":
        changes["error_detail"] = None  # what went wrong before did not last
    changed = update_returning(rows, status=storable(status)[:32], **changes)
    if not changed:
        return None
    if announce:
        announce_activity(changed[0])
    return changed[0]


def _json(body: Any) -> Any:
    return None if body is None else Value(storable(body), JSONField())


def announce_activity(*rows: ActivityLog) -> None:
    """Publish ACTIVITY_LOGGED for each row on commit, under the row's own time."""
    publish_on_commit(
        *(
            Frame(EventType.ACTIVITY_LOGGED, row.workspace_id, row.created_at, announcement(row))
            for row in rows
        )
    )


def _next_places(workspace_id: UUID, count: int) -> list[tuple[datetime, int]]:
    """Time and number of the next rows, handed out under the feed's lock so that both agree with the order of
    commit.
    """
    lock_in_transaction(f"activity:{workspace_id}")
    with connection.cursor() as cursor:
        cursor.execute(_NEXT_PLACES, [workspace_id, count])
        return [(created_at, seq) for created_at, seq in cursor.fetchall()]


def announcement(row: ActivityLog) -> dict[str, Any]:
    """The payload of ACTIVITY_LOGGED."""
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
            payload[key] = body
    if row.error_detail:
        payload["error_detail"] = scrubbed(row.error_detail)
    return payload


def acknowledge(*, workspace_id: UUID, seq: int) -> int:
    """Record how far the workspace consumed its inbox; returns the highest number ever given. Never falls."""
    with connection.cursor() as cursor:
        cursor.execute(_ACK, [workspace_id, seq])
        (acked,) = cursor.fetchone()
    return int(acked)


def message_user(
    *, workspace_id: UUID, name: str, message: str, attachments: Sequence[Mapping[str, Any]] = ()
) -> ActivityLog:
    """An agent's message to the person at the canvas: the row first, the bubble once it is stored.

    One failed insert is tried again. Raises Unavailable: nothing was shown, so the agent may repeat it.
    """
    for is_last in (False, True):
        try:
            return _store_message(workspace_id, name, message, attachments)
        except (DatabaseError, InterfaceError) as error:
            log.warning("message.not_stored", workspace_id=str(workspace_id), error=str(error))
            if is_last:
                tally.add("molecule_agent_message_persist_failures_total")
                raise datastore_unavailable() from None
    raise AssertionError("unreachable")


@transaction.atomic
def _store_message(
    workspace_id: UUID, name: str, message: str, attachments: Sequence[Mapping[str, Any]]
) -> ActivityLog:
    payload: dict[str, Any] = {"message": message, "workspace_id": str(workspace_id), "name": name}
    response: dict[str, Any] = {"result": message}
    if attachments:
        payload["attachments"] = [dict(one) for one in attachments]
        response["parts"] = [{"kind": "file", "file": dict(one)} for one in attachments]
    preview = message[:PREVIEW_CHARS] + ("…" if len(message) > PREVIEW_CHARS else "")
    row = log_activity(
        workspace_id=workspace_id,
        activity_type=INBOX_TYPE,
        method=NOTIFY_METHOD,
        summary=f"Agent message: {preview}",
        response_body=response,
        announce=False,
    )
    broadcast(EventType.AGENT_MESSAGE, workspace_id, payload)
    return row
