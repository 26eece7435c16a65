"""Reads over the tree: who is above, who is below, who may talk to whom. Every walk is bounded and
cycle-safe.

Source: docs/reference/workspaces.md, The tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection

from workspaces.models import CanvasLayout, Status, Workspace

log = structlog.get_logger(__name__)

MAX_DEPTH = 64
COMMUNICATION_STEPS = 32

_SUBTREE = """
WITH RECURSIVE tree(id, depth) AS (
    SELECT id, 0 FROM workspaces WHERE id = %s
    UNION SELECT child.id, tree.depth + 1 FROM workspaces child JOIN tree ON child.parent_id = tree.id
    WHERE child.status <> 'removed' AND tree.depth < %s)
SELECT id, max(depth) FROM tree GROUP BY id ORDER BY 2, 1
"""

_CHAIN = """
WITH RECURSIVE chain(start, id, parent_id, status, depth) AS (
    SELECT id, id, parent_id, status, 0 FROM workspaces WHERE id = ANY(%s)
    UNION ALL SELECT chain.start, up.id, up.parent_id, up.status, chain.depth + 1
    FROM workspaces up JOIN chain ON up.id = chain.parent_id WHERE chain.depth < %s)
SELECT start, id, parent_id, status FROM chain ORDER BY start, depth
"""


@dataclass(frozen=True)
class Link:
    """One step of a chain of parents."""

    id: UUID
    parent_id: UUID | None
    status: str


def subtree(root_id: UUID) -> list[UUID]:
    """The root, then its live descendants by depth: parents before children. Empty when the root is
    unknown.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SUBTREE, [root_id, MAX_DEPTH])
        return [row[0] for row in cursor.fetchall()]


def chains(ids: Iterable[UUID], *, steps: int = MAX_DEPTH) -> dict[UUID, list[Link]]:
    """For each known id, the row itself and its ancestors upwards."""
    found: dict[UUID, list[Link]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_CHAIN, [list(ids), steps])
        for start, one, parent, status in cursor.fetchall():
            found.setdefault(start, []).append(Link(one, parent, status))
    return found


def paused_ancestor(workspace_id: UUID) -> str | None:
    """The name of the nearest paused ancestor, if any."""
    for link in chains([workspace_id]).get(workspace_id, [])[1:]:
        if link.status == Status.PAUSED:
            return str(Workspace.objects.values_list("name", flat=True).get(pk=link.id))
    return None


def can_communicate(caller_id: UUID, target_id: UUID) -> bool:
    """Self, siblings, ancestors and descendants may talk; cousins, other teams, removed and unknown ones
    may not.
    """
    if caller_id == target_id:
        return True
    found = chains([caller_id, target_id], steps=COMMUNICATION_STEPS)
    caller, target = found.get(caller_id), found.get(target_id)
    if not caller or not target or Status.REMOVED in {caller[0].status, target[0].status}:
        return False
    for chain in (caller, target):
        if len(chain) > COMMUNICATION_STEPS:
            log.warning("communication.chain_too_long", workspace_id=str(chain[0].id))
            return False
    if caller[0].parent_id is None and target[0].parent_id is None:
        return bool(settings.COMM_ROOT_SIBLINGS == "allow")
    if caller[0].parent_id == target[0].parent_id:
        return True
    above_caller = {link.id for link in caller[1:]}
    above_target = {link.id for link in target[1:]}
    return target_id in above_caller or caller_id in above_target


def position(workspace_id: UUID) -> tuple[float, float]:
    """Absolute canvas coordinates; (0, 0) without a layout."""
    found = CanvasLayout.objects.filter(pk=workspace_id).values_list("x", "y").first()
    return found or (0.0, 0.0)
