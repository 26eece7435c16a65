"""What one step of a delegation leaves in the delegator's feed, and its events: one statement.

A step writes up to three lines and an event, and there are many of them. Like `log_activity`, it is the last
write of the caller's transaction. Source: docs/reference/activity.md, Delegations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID, uuid4

from django.db import connection
from django.db.models import QuerySet
from django.db.models.fields.json import KT

from activity.events import publish_recorded
from activity.models import ActivityLog, StructureEvent
from activity.redaction import storable
from activity.services import ERROR_CHARS, INBOX_TYPE, SUMMARY_CHARS
from config.http import to_json
from config.locks import lock_in_transaction

DELEGATION_TYPE = "delegation"
DELEGATE = "delegate"
RESULT = "delegate_result"

# A workspace that was purged meanwhile has no feed: nothing is written, and the step holds all the same.
_STEP = """
WITH place AS (
    SELECT greatest(clock_timestamp(), (SELECT created_at FROM activity_logs
                                        WHERE workspace_id = w.id ORDER BY seq DESC LIMIT 1)) AS at
    FROM workspaces w WHERE w.id = %(workspace_id)s),
shown AS (
    UPDATE activity_logs SET status = %(shown)s
    WHERE workspace_id = %(workspace_id)s AND activity_type = 'delegation' AND method = 'delegate'
    AND request_body ->> 'delegation_id' = %(delegation_id)s),
lines AS (
    INSERT INTO activity_logs (id, workspace_id, activity_type, method, source_id, target_id, summary, status,
                               request_body, response_body, error_detail, idempotency_key, created_at)
    SELECT line.id, %(workspace_id)s, line.activity_type, line.method, line.source_id, line.target_id,
           line.summary, line.status, line.request_body, line.response_body, line.error_detail,
           line.idempotency_key, place.at
    FROM place, jsonb_to_recordset(%(lines)s::jsonb) AS line(
        id uuid, activity_type text, method text, source_id uuid, target_id uuid, summary text, status text,
        request_body jsonb, response_body jsonb, error_detail text, idempotency_key text)
    ON CONFLICT (workspace_id, (request_body ->> 'delegation_id'), activity_type)
    WHERE method = 'delegate_result' DO UPDATE
    SET source_id = EXCLUDED.source_id, target_id = EXCLUDED.target_id, summary = EXCLUDED.summary,
        status = EXCLUDED.status, request_body = EXCLUDED.request_body,
        response_body = EXCLUDED.response_body, error_detail = EXCLUDED.error_detail)
INSERT INTO structure_events (id, event_type, workspace_id, target_id, payload, created_at)
SELECT event.id, event.event_type, %(workspace_id)s, event.target_id, event.payload,
       coalesce((SELECT at FROM place), clock_timestamp())
FROM jsonb_to_recordset(%(events)s::jsonb) AS event(id uuid, event_type text, target_id uuid, payload jsonb)
RETURNING created_at
"""


@dataclass(frozen=True)
class Line:
    """One line: the task (`delegate`), its result, or the copy of the result in the inbox.

    A result and its copy are one line each per delegation: writing them again replaces what they say, and
    keeps their place.
    """

    activity_type: str
    method: str
    source_id: UUID
    target_id: UUID
    summary: str
    status: str
    request_body: dict[str, Any]
    response_body: dict[str, Any]
    error_detail: str | None = None
    idempotency_key: str | None = None


def lines_of(
    workspace_id: UUID, delegation_id: str, *, activity_type: str = DELEGATION_TYPE
) -> QuerySet[ActivityLog]:
    """The task and the result of one delegation, in its delegator's feed."""
    named = ActivityLog.objects.annotate(delegation_id=KT("request_body__delegation_id"))
    return named.filter(
        workspace_id=workspace_id,
        activity_type=activity_type,
        method__in=[DELEGATE, RESULT],
        delegation_id=delegation_id,
    )


def lock_feed(workspace_id: UUID) -> None:
    """Hold the feed until the transaction ends: required before `write_step`, unless the caller's own
    statement has taken the same lock.
    """
    lock_in_transaction(f"activity:{workspace_id}")


def write_step(
    *,
    workspace_id: UUID,
    delegation_id: str,
    shown: str,
    lines: Sequence[Line] = (),
    events: Sequence[StructureEvent] = (),
) -> None:
    """Show the task as `shown`, write the lines, record the events and publish them on commit."""
    values: dict[str, Any] = {
        "workspace_id": workspace_id,
        "delegation_id": delegation_id,
        "shown": shown,
        "lines": to_json([_line(line) for line in lines]).decode(),
        "events": to_json([_event(row) for row in events]).decode(),
    }
    with connection.cursor() as cursor:
        cursor.execute(_STEP, values)
        moments = [row[0] for row in cursor.fetchall()]
    for row, moment in zip(events, moments, strict=True):
        row.created_at = moment
        publish_recorded(row)


def refresh_copy(workspace_id: UUID, copy: Line) -> None:
    """Put a text that came late into the inbox's copy of a result, where there is one."""
    lines = lines_of(workspace_id, copy.request_body["delegation_id"], activity_type=INBOX_TYPE)
    lines.filter(method=RESULT).update(
        request_body=storable(copy.request_body),
        response_body=storable(copy.response_body),
        error_detail=storable(copy.error_detail),
    )


def release_key(workspace_id: UUID, key: str) -> None:
    """Take an idempotency key from the line that holds it, so that a new one may."""
    ActivityLog.objects.filter(workspace_id=workspace_id, idempotency_key=key).update(idempotency_key=None)


def _line(line: Line) -> dict[str, Any]:
    row = storable(asdict(line))
    row["summary"] = row["summary"][:SUMMARY_CHARS]
    row["error_detail"] = (row["error_detail"] or "")[:ERROR_CHARS] or None
    return {"id": uuid4(), **row}


def _event(row: StructureEvent) -> dict[str, Any]:
    return {
        "id": row.pk,
        "event_type": row.event_type,
        "target_id": row.target_id,
        "payload": row.payload,
    }
