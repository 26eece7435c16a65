"""Reading a workspace's feed: one statement, whatever the filters, whether or not there is anything new.

Source: docs/reference/activity.md, Reading the feed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from django.db import connection
from django.utils.dateparse import parse_datetime

from activity.attachments import mentioned
from activity.models import ActivityLog
from activity.services import INBOX_TYPE
from config.errors import BadRequest, Gone
from config.http import rfc3339

DEFAULT_LIMIT = 100
MAX_LIMIT = 500
MAX_SINCE_S = 2_592_000

# The inbox copies of delegation results, which the untyped agent view would show twice.
_NO_RESULT_COPIES = (
    f"NOT (a.activity_type = '{INBOX_TYPE}' AND a.method IS NOT DISTINCT FROM 'delegate_result')"
)

_COLUMNS = """
a.id, a.seq, a.workspace_id, a.activity_type, a.source_id, a.target_id, a.method, a.summary, a.duration_ms,
a.status, a.error_detail, a.created_at, a.request_body, a.response_body, a.tool_trace,
peer.name AS peer_name, peer.role AS peer_role, peer.agent_card IS NOT NULL AS peer_has_card
"""

_RECENT = f"""
SELECT {_COLUMNS} FROM activity_logs a LEFT JOIN workspaces peer ON peer.id = a.source_id
WHERE a.workspace_id = %(workspace_id)s {{where}}
ORDER BY a.created_at DESC, a.seq DESC LIMIT %(limit)s
"""

# No row: the cursor is unknown. One row without an id: the cursor is known and nothing follows it. The ack
# is written
# only when it would rise, so that an idle poll writes nothing.
_SINCE = f"""
WITH place AS (SELECT seq FROM activity_logs WHERE id = %(since_id)s AND workspace_id = %(workspace_id)s),
ack AS (INSERT INTO inbox_delivery_state (workspace_id, last_acked_seq, updated_at)
        SELECT %(workspace_id)s, place.seq, now() FROM place WHERE %(ack)s AND NOT EXISTS (
            SELECT 1 FROM inbox_delivery_state known
            WHERE known.workspace_id = %(workspace_id)s AND known.last_acked_seq >= place.seq)
        ON CONFLICT (workspace_id) DO UPDATE SET updated_at = now(),
            last_acked_seq = greatest(inbox_delivery_state.last_acked_seq, EXCLUDED.last_acked_seq))
SELECT {_COLUMNS} FROM place
LEFT JOIN activity_logs a ON a.workspace_id = %(workspace_id)s AND a.seq > place.seq {{where}}
LEFT JOIN workspaces peer ON peer.id = a.source_id
ORDER BY a.seq ASC LIMIT %(limit)s
"""


@dataclass
class Query:
    """The filters of one read; all of them hold together."""

    limit: int = DEFAULT_LIMIT
    since_id: str | None = None
    shows_attachments: bool = False
    platform_url: str = ""  # where the reader finds this server: links in rows begin with it
    conditions: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def where(self) -> str:
        return "".join(f" AND {condition}" for condition in self.conditions)

    def add(self, condition: str, **values: Any) -> None:
        self.conditions.append(condition)
        self.values.update(values)


def parse_query(params: Mapping[str, str], *, now: datetime) -> Query:
    """The query string of `GET /workspaces/:id/activity`. Raises BadRequest with the text clients show."""
    query = Query(
        limit=limit_of(params.get("limit"), default=DEFAULT_LIMIT, most=MAX_LIMIT),
        since_id=params.get("since_id") or None,
        shows_attachments="peer_info" in (params.get("include") or "").split(","),
    )
    if kind := params.get("type"):
        query.add("a.activity_type = %(type)s", type=kind.replace("\x00", ""))
    match params.get("source") or None:
        case None:
            pass
        case "canvas":
            query.add("a.source_id IS NULL AND a.method IS DISTINCT FROM 'chat_upload_receive'")
        case "agent":
            query.add("a.source_id IS NOT NULL")
            if not params.get("type"):
                query.add(_NO_RESULT_COPIES)
        case _:
            raise BadRequest("source must be 'canvas' or 'agent'")
    if peer := params.get("peer_id"):
        query.add(
            "(a.source_id = %(peer)s OR a.target_id = %(peer)s)", peer=_uuid(peer, "peer_id must be a UUID")
        )
    if before := params.get("before_ts"):
        query.add("a.created_at < %(before)s", before=moment_of(before, "before_ts"))
    if before_id := params.get("before_id"):
        query.add(
            "a.seq < (SELECT seq FROM activity_logs"
            " WHERE id = %(before_id)s AND workspace_id = %(workspace_id)s)",
            before_id=_cursor(before_id, "before_id"),
        )
    if seconds := params.get("since_secs"):
        query.add("a.created_at >= %(after)s", after=now - timedelta(seconds=_seconds(seconds)))
    return query


def read_feed(workspace_id: UUID, query: Query, *, acknowledges: bool) -> list[dict[str, Any]]:
    """Rows of the feed, ready to encode: ascending after `since_id`, otherwise newest first.

    `acknowledges`: the reader is the workspace itself, so the cursor it sends has been handled.
    Raises Gone for a cursor that is malformed, pruned or another workspace's: clients reset on 410 only.
    """
    values = {"workspace_id": workspace_id, "limit": query.limit, "ack": acknowledges, **query.values}
    if query.since_id is None:
        statement = _RECENT
    else:
        values["since_id"] = _cursor(query.since_id, "since_id")
        statement = _SINCE
    with connection.cursor() as cursor:
        cursor.execute(statement.format(where=query.where()), values)
        names = [column.name for column in cursor.description or ()]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    if query.since_id is not None and not found:
        raise _lost("since_id")
    if not found and "before_id" in query.values:
        _check_known(query.values["before_id"], workspace_id)
    return [_rendered(row, query) for row in found if row["id"] is not None]


def _check_known(before_id: UUID, workspace_id: UUID) -> None:
    """An empty page is the end of the feed only when its cursor exists."""
    if not ActivityLog.objects.filter(pk=before_id, workspace_id=workspace_id).exists():
        raise _lost("before_id")


def _rendered(row: dict[str, Any], query: Query) -> dict[str, Any]:
    peer_name, peer_role, has_card = (row.pop(f"peer_{key}") for key in ("name", "role", "has_card"))
    stored = {key: row.pop(key) for key in ("request_body", "response_body", "tool_trace")}
    bodies = {key: orjson.loads(body) for key, body in stored.items() if body is not None}
    row["created_at"] = rfc3339(row["created_at"])
    if row["activity_type"] == INBOX_TYPE:
        source = "peer_agent" if row["source_id"] else "canvas_user"
        row["source"] = source
        row["data"] = {
            "source": source,
            "source_id": row["source_id"],
            "text": _text(bodies.get("request_body")) or row["summary"] or "",
            "peer_name": peer_name,
            "peer_role": peer_role,
            "agent_card_url": _card_url(query.platform_url, row["source_id"]) if has_card else None,
        }
    row.update(bodies)
    if query.shows_attachments and (files := mentioned(row["method"], bodies.get("request_body"))):
        row["attachments"] = files
    return row


def _card_url(platform_url: str, workspace_id: UUID) -> str:
    """Where the peer's agent card is read: on this server, never at an address of the agent."""
    return f"{platform_url}/workspaces/{workspace_id}/.well-known/agent-card.json"


def _text(body: Any) -> str:
    """The text parts of a stored A2A message, joined; empty when it holds none."""
    try:
        parts = body["params"]["message"]["parts"]
        return "".join(part["text"] for part in parts if part.get("kind", part.get("type")) == "text")
    except (KeyError, TypeError, AttributeError):
        return ""


def limit_of(given: str | None, *, default: int, most: int) -> int:
    """The number of rows asked for, at most `most`; `default` for anything that is no positive number."""
    return _natural(given or "", most) or default


def _seconds(given: str) -> int:
    seconds = _natural(given, MAX_SINCE_S)
    if not seconds:
        raise BadRequest("since_secs must be a positive integer")
    return seconds


def _natural(given: str, most: int) -> int:
    """The number in decimal digits, at most `most`; 0 for anything else."""
    if not given.isdecimal():
        return 0
    digits = given.lstrip("0")
    return most if len(digits) > len(str(most)) else min(int(digits or "0"), most)


def moment_of(given: str, name: str) -> datetime:
    """Raises BadRequest."""
    try:
        moment = parse_datetime(given.replace(" ", "+"))  # an unescaped `+00:00` arrives as a space
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BadRequest(f"{name} must be an RFC3339 timestamp, for example 2026-01-31T12:00:00.000000Z")
    return moment


def _uuid(given: str, text: str) -> UUID:
    try:
        return UUID(given)
    except ValueError:
        raise BadRequest(text) from None


def _cursor(given: str, name: str) -> UUID:
    try:
        return UUID(given)
    except ValueError:
        raise _lost(name) from None


def _lost(name: str) -> Gone:
    return Gone(f"{name} cursor not found; omit {name} to reset")
