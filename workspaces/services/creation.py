"""Creates many workspaces at once, each only where no live one has its place and name.

Source: docs/reference/orgimport.md, Identity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import NOT_PROVIDED

from config.errors import Conflict
from config.locks import lock_in_transaction
from workspaces.models import Workspace
from workspaces.selectors import MAX_DEPTH, chains
from workspaces.services.crud import TREE_LOCK, tree_too_deep

LOOKUP_TIMEOUT_MS = 5000

_FIELDS = [
    one for one in Workspace._meta.concrete_fields if getattr(one, "db_default", NOT_PROVIDED) is NOT_PROVIDED
]
_COLUMNS = ", ".join(str(one.column) for one in _FIELDS)
# `created_at` a microsecond apart: siblings are listed in the order they were given.
_INSERT = f"""
INSERT INTO workspaces ({_COLUMNS}, created_at)
SELECT {_COLUMNS}, now() + given.number * interval '1 microsecond'
FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS given(value, number),
     jsonb_populate_record(NULL::workspaces, given.value) AS new
ORDER BY new.parent_id, new.name
ON CONFLICT (parent_id, name) WHERE status <> 'removed' DO NOTHING
RETURNING id
"""
_LOOKUP = """
SELECT w.id FROM workspaces w
JOIN unnest(%s::uuid[], %s::text[]) AS wanted(parent_id, name)
  ON w.name = wanted.name AND w.parent_id IS NOT DISTINCT FROM wanted.parent_id
WHERE w.status <> 'removed'
"""
_SHARE = "SELECT id FROM workspaces WHERE id = ANY(%s) AND status <> 'removed' ORDER BY id FOR SHARE"


def get_or_create_workspaces(rows: Sequence[Workspace]) -> list[tuple[Workspace, bool]]:
    """(the live workspace of each row's parent and name, whether it was created now), in the order given.

    The database's own constraint decides, so of two callers one creates. Must run in a transaction. Raises
    Conflict when the other one has vanished meanwhile, DatabaseError when it cannot be looked up; nothing is
    ever inserted after a failed look-up.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("creating many workspaces needs a transaction")
    if not rows:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [json.dumps([_values(row) for row in rows], default=_plain)])
        created = {found for (found,) in cursor.fetchall()}
    others = _look_up([row for row in rows if row.pk not in created])
    return [(row, True) if row.pk in created else (others[_key(row)], False) for row in rows]


def share_live_parents(ids: Iterable[UUID]) -> set[UUID]:
    """Keep these from being removed until the transaction ends; returns the live ones among them."""
    lock_in_transaction(TREE_LOCK, is_shared=True)
    wanted = list(ids)
    if not wanted:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(_SHARE, [wanted])
        return {found for (found,) in cursor.fetchall()}


def check_depth_below(parent_id: UUID, levels: int) -> None:
    """Raises Conflict when so many levels below the parent would make the tree too deep."""
    if len(chains([parent_id]).get(parent_id, [])) + levels > MAX_DEPTH:
        raise tree_too_deep()


def _look_up(rows: Sequence[Workspace]) -> dict[tuple[UUID | None, str], Workspace]:
    if not rows:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {LOOKUP_TIMEOUT_MS}")
        cursor.execute(_LOOKUP, [[row.parent_id for row in rows], [row.name for row in rows]])
        ids = [found for (found,) in cursor.fetchall()]
        cursor.execute("SET LOCAL statement_timeout = DEFAULT")
    found = {_key(row): row for row in Workspace.objects.live().filter(pk__in=ids)}
    if any(_key(row) not in found for row in rows):
        raise Conflict("a workspace was removed or moved meanwhile; repeat the request")
    return found


def _key(row: Workspace) -> tuple[UUID | None, str]:
    return row.parent_id, row.name


def _values(row: Workspace) -> dict[str, Any]:
    return {str(one.column): getattr(row, one.attname) for one in _FIELDS}


def _plain(value: Any) -> str:
    if isinstance(value, UUID | datetime):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be stored")
