"""What a workspace said and did, found by a piece of text. Source: docs/reference/activity.md, Search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import structlog
from django.db import OperationalError, connection, transaction
from psycopg.errors import QueryCanceled

from activity.models import ActivityLog
from config.errors import Unavailable

log = structlog.get_logger(__name__)

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
STATEMENT_MS = 5000

# Filled by rooms above in ready(): (workspace id, text or "", limit) -> items of the same shape.
sources: list[Callable[[UUID, str, int], list[dict[str, Any]]]] = []

_COLUMNS = ("activity_type", "method", "status", "summary", "request_body::text", "response_body::text")
_FOUND = f"""
SELECT id FROM activity_logs WHERE workspace_id = %(workspace_id)s
AND (%(pattern)s::text IS NULL OR {" OR ".join(f"{column} ILIKE %(pattern)s" for column in _COLUMNS)})
ORDER BY created_at DESC, seq DESC LIMIT %(limit)s
"""


def search(workspace_id: UUID, text: str, *, limit: int) -> list[dict[str, Any]]:
    """Rows of the feed and whatever else remembers, newest first. `text` is taken literally, without case.

    Raises Unavailable after 5 s.
    """
    found = [_shown(row) for row in _rows(workspace_id, text, limit)]
    for source in sources:
        found += source(workspace_id, text, limit)
    return sorted(found, key=lambda item: item["created_at"], reverse=True)[:limit]


def _rows(workspace_id: UUID, text: str, limit: int) -> list[ActivityLog]:
    values = {"workspace_id": workspace_id, "pattern": _pattern(text), "limit": limit}
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
            cursor.execute(_FOUND, values)
            ids = [row[0] for row in cursor.fetchall()]
            cursor.execute("SET LOCAL statement_timeout = DEFAULT")
    except OperationalError as error:
        if not isinstance(error.__cause__, QueryCanceled):
            raise
        log.warning("search.too_slow", workspace_id=str(workspace_id))
        raise Unavailable("the search took too long; use a longer text or a smaller limit") from None
    return list(ActivityLog.objects.filter(pk__in=ids).newest_first())


def _pattern(text: str) -> str | None:
    """The text as a LIKE pattern that means itself; None for every row."""
    if not text:
        return None
    literal = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("\x00", "\ufffd")
    return f"%{literal}%"


def _shown(row: ActivityLog) -> dict[str, Any]:
    item: dict[str, Any] = {
        "kind": "activity",
        "id": row.pk,
        "workspace_id": row.workspace_id,
        "label": row.activity_type,
        "content": row.summary or "",
        "method": row.method or "",
        "status": row.status,
        "created_at": row.created_at,
    }
    bodies = {"request_body": row.request_body, "response_body": row.response_body}
    return item | {name: body for name, body in bodies.items() if body is not None}
