"""Verbs over a workspace's key/value memory. Source: docs/reference/memory.md, Key and value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from config.errors import Conflict
from config.http import to_json
from memory.models import KeyValue

BATCH = 500

_COLUMNS = """
(id, workspace_id, key, value, version, expires_at, updated_at)
VALUES (gen_random_uuid(), %(workspace)s, %(key)s, %(value)s::jsonb, 1,
        now() + %(ttl)s * interval '1 second', now())
"""
_CHANGE = (
    "value = EXCLUDED.value, version = m.version + 1, expires_at = EXCLUDED.expires_at, updated_at = now()"
)
_PUT = f"""
INSERT INTO workspace_memory AS m {_COLUMNS}
ON CONFLICT (workspace_id, key) DO UPDATE SET {_CHANGE} RETURNING version
"""
# An expired row counts as absent, and its number goes on: no reader ever sees one twice.
_CREATE = f"""
INSERT INTO workspace_memory AS m {_COLUMNS}
ON CONFLICT (workspace_id, key) DO UPDATE SET {_CHANGE} WHERE m.expires_at <= now() RETURNING version
"""
_REPLACE = """
UPDATE workspace_memory SET value = %(value)s::jsonb, version = version + 1,
    expires_at = now() + %(ttl)s * interval '1 second', updated_at = now()
WHERE workspace_id = %(workspace)s AND key = %(key)s AND version = %(expected)s
AND (expires_at IS NULL OR expires_at > now()) RETURNING version
"""


@dataclass(frozen=True)
class Wish:
    """What is to be stored. `ttl_s` None: for good, whatever was before. `expected` None: last write wins;
    0: only where nothing is.
    """

    key: str
    value: Any
    ttl_s: int | None = None
    expected: int | None = None


def put(workspace_id: UUID, wish: Wish) -> int:
    """Store a value in one statement; returns its version. Raises Conflict when `expected` is not there."""
    values: dict[str, Any] = {
        "workspace": workspace_id,
        "key": wish.key,
        "value": to_json(wish.value).decode(),
        "ttl": wish.ttl_s,
        "expected": wish.expected,
    }
    statement = _PUT if wish.expected is None else _REPLACE if wish.expected else _CREATE
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        stored = cursor.fetchone()
    if stored is None:
        raise _mismatch(workspace_id, wish)
    return int(stored[0])


def delete(workspace_id: UUID, key: str) -> None:
    """Missing is a success."""
    KeyValue.objects.filter(workspace_id=workspace_id, key=key).delete()


def forget_expired() -> int:
    """One batch of values whose time is over; returns how many went."""
    with transaction.atomic():
        rows = KeyValue.objects.expired().select_for_update(skip_locked=True).order_by("expires_at")
        ids = list(rows.values_list("pk", flat=True)[:BATCH])
        deleted, _ = KeyValue.objects.expired().filter(pk__in=ids).delete()
        return deleted


def _mismatch(workspace_id: UUID, wish: Wish) -> Conflict:
    rows = KeyValue.objects.live().filter(workspace_id=workspace_id, key=wish.key)
    current = rows.values_list("version", flat=True).first()
    text = "if_match_version mismatch" + (": key does not exist" if current is None else "")
    return Conflict(text, expected_version=wish.expected, current_version=current)


def keys_by_workspace(workspace_ids: Iterable[UUID]) -> dict[UUID, set[str]]:
    """The keys under which each workspace has a value; those without any are absent."""
    held: dict[UUID, set[str]] = {}
    rows = KeyValue.objects.live().filter(workspace_id__in=list(workspace_ids))
    for workspace_id, key in rows.values_list("workspace_id", "key"):
        held.setdefault(workspace_id, set()).add(key)
    return held
