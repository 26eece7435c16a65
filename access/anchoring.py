"""Which org a workspace belongs to: the root of its chain of parents. Org tokens are bound to one.

Source: docs/reference/access.md, Org tokens.
"""

from __future__ import annotations

import threading
import time
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connection

from config.errors import datastore_unavailable

MAX_DEPTH = 64
KEPT_S = 30.0  # a workspace that moves to another org is seen there after at most so long
MAX_KEPT = 10_000

_ROOT = """
WITH RECURSIVE chain(id, parent_id, depth) AS (
    SELECT id, parent_id, 0 FROM workspaces WHERE id = %s
    UNION ALL SELECT up.id, up.parent_id, chain.depth + 1
    FROM workspaces up JOIN chain ON up.id = chain.parent_id WHERE chain.depth < %s)
SELECT id FROM chain WHERE parent_id IS NULL LIMIT 1
"""


def org_root(workspace_id: UUID) -> UUID | None:
    """The root of the tree; None for an unknown workspace and for a chain without end. Raises Unavailable."""
    root, until = _roots.get(workspace_id, (None, 0.0))
    if root is not None and until > time.monotonic():
        return root
    try:
        with connection.cursor() as cursor:
            cursor.execute(_ROOT, [workspace_id, MAX_DEPTH])
            row = cursor.fetchone()
    except (DatabaseError, InterfaceError):
        raise datastore_unavailable() from None
    if row is None:
        return None
    with _lock:
        if len(_roots) >= MAX_KEPT:
            _roots.clear()
        _roots[workspace_id] = (row[0], time.monotonic() + KEPT_S)
    return UUID(str(row[0]))


def is_same_org(one: UUID, other: UUID) -> bool:
    """Whether two workspaces hang from one root; never true for an unknown one."""
    root = org_root(one)
    return root is not None and root == org_root(other)


def forget_everything() -> None:
    """Tests begin without it."""
    _roots.clear()


_roots: dict[UUID, tuple[UUID, float]] = {}
_lock = threading.Lock()
