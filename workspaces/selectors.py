"""Reads over the tree: who is above, who is below, who may talk to whom. Every walk is bounded and
cycle-safe.

Source: docs/reference/workspaces.md, The tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection
from django.db.models import Case, F, IntegerField, Q, TextField, Value, When
from django.db.models.functions import Coalesce

from workspaces import hooks
from workspaces.models import CanvasLayout, Status, Workspace

log = structlog.get_logger(__name__)

MAX_DEPTH = 64  # levels of a tree; deeper ones are refused, so that no bounded walk is cut short
COMMUNICATION_STEPS = 32
FORWARDING_HOPS = 5

_SUBTREE = """
WITH RECURSIVE tree(id, depth) AS (
    SELECT id, 0 FROM workspaces WHERE id = %s
    UNION SELECT child.id, tree.depth + 1 FROM workspaces child JOIN tree ON child.parent_id = tree.id
    WHERE child.status <> 'removed' AND tree.depth < %s)
SELECT id, max(depth) FROM tree GROUP BY id ORDER BY 2, 1
"""

_REMOVED_SUBTREE = """
WITH RECURSIVE tree(id, depth) AS (
    SELECT id, 0 FROM workspaces WHERE id = %s AND status = 'removed'
    UNION SELECT child.id, tree.depth + 1 FROM workspaces child JOIN tree ON child.parent_id = tree.id
    WHERE child.status = 'removed' AND tree.depth < %s)
SELECT DISTINCT id FROM tree
"""

_CHAIN = """
WITH RECURSIVE chain(start, id, parent_id, status, depth) AS (
    SELECT id, id, parent_id, status, 0 FROM workspaces WHERE id = ANY(%s)
    UNION ALL SELECT chain.start, up.id, up.parent_id, up.status, chain.depth + 1
    FROM workspaces up JOIN chain ON up.id = chain.parent_id WHERE chain.depth < %s)
SELECT start, id, parent_id, status FROM chain ORDER BY start, depth
"""

_FORWARDED = """
WITH RECURSIVE hop(id, forwarded_to, depth) AS (
    SELECT id, forwarded_to_id, 0 FROM workspaces WHERE id = %s
    UNION ALL SELECT next.id, next.forwarded_to_id, hop.depth + 1
    FROM workspaces next JOIN hop ON next.id = hop.forwarded_to WHERE hop.depth < %s)
SELECT id FROM hop WHERE forwarded_to IS NULL
"""


@dataclass(frozen=True)
class Link:
    """One step of a chain of parents."""

    id: UUID
    parent_id: UUID | None
    status: str


def subtree(root_id: UUID) -> list[UUID]:
    """The root, then its live descendants by depth: parents before children.

    Empty when the root is unknown.
    """
    return list(depths(root_id))


def depths(root_id: UUID) -> dict[UUID, int]:
    """The root and its live descendants with their distance from it, in order of it."""
    with connection.cursor() as cursor:
        cursor.execute(_SUBTREE, [root_id, MAX_DEPTH])
        return dict(cursor.fetchall())


def removed_subtree(root_id: UUID) -> list[UUID]:
    """A removed workspace and its removed descendants; empty for one that is not removed."""
    with connection.cursor() as cursor:
        cursor.execute(_REMOVED_SUBTREE, [root_id, MAX_DEPTH])
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


def can_communicate(caller_id: UUID, target_id: UUID, *, even_removed: bool = False) -> bool:
    """Self, siblings, ancestors and descendants may talk; cousins, other teams, removed and unknown ones
    may not.

    `even_removed` asks by place alone: those who could talk to a workspace are told that it has gone.
    """
    if caller_id == target_id:
        return True
    found = chains([caller_id, target_id], steps=COMMUNICATION_STEPS)
    caller, target = found.get(caller_id), found.get(target_id)
    if not caller or not target:
        return False
    if not even_removed and Status.REMOVED in {caller[0].status, target[0].status}:
        return False
    for chain in (caller, target):
        if len(chain) > COMMUNICATION_STEPS:
            log.warning("communication.chain_too_long", workspace_id=str(chain[0].id))
            return False
    if caller[0].parent_id is None and target[0].parent_id is None:
        return roots_may_talk()
    if caller[0].parent_id == target[0].parent_id:
        return True
    above_caller = {link.id for link in caller[1:]}
    above_target = {link.id for link in target[1:]}
    return target_id in above_caller or caller_id in above_target


def roots_may_talk() -> bool:
    return bool(settings.COMM_ROOT_SIBLINGS == "allow")


def peers(row: Workspace, *, wanted: str = "") -> list[dict[str, Any]]:
    """Whom a workspace works with directly: siblings, then children, then the parent; each group by age.

    `wanted` narrows them to a part of the name or the role, whatever its case.
    """
    related = Q(parent_id=row.pk) | Q(pk=row.parent_id)
    if row.parent_id or roots_may_talk():
        related |= Q(parent_id=row.parent_id) if row.parent_id else Q(parent=None)
    group = Case(
        When(pk=row.parent_id, then=Value(2)),
        When(parent_id=row.pk, then=Value(1)),
        default=Value(0),
        output_field=IntegerField(),
    )
    rows = Workspace.objects.live().filter(related).exclude(pk=row.pk)
    if wanted:
        rows = rows.filter(Q(name__icontains=wanted) | Q(role__icontains=wanted))
    url = Coalesce(F("url"), Value(""), output_field=TextField())
    keys = ("id", "name", "role", "tier", "status", "parent_id", "active_tasks", "agent_card")
    found = rows.annotate(group=group, shown_url=url).order_by("group", "created_at", "pk")
    return [_with_url(one) for one in found.values(*keys, "shown_url")]


def _with_url(peer: dict[str, Any]) -> dict[str, Any]:
    peer["url"] = peer.pop("shown_url")
    return peer


def forwarding_target(workspace_id: UUID) -> UUID | None:
    """Where a retired workspace's callers are sent, itself when it is not retired.

    None: unknown, or the trail does not end within a few hops.
    """
    with connection.cursor() as cursor:
        cursor.execute(_FORWARDED, [workspace_id, FORWARDING_HOPS])
        row = cursor.fetchone()
    return row[0] if row else None


def internal_address(row: Workspace) -> str:
    """Where other agents reach the workspace: inside its network for compute of ours, else its own url."""
    if row.is_managed and row.url:
        for hook in hooks.internal_address:
            if address := hook(row):
                return address
    return row.url or ""


def position(workspace_id: UUID) -> tuple[float, float]:
    """Absolute canvas coordinates; (0, 0) without a layout."""
    found = CanvasLayout.objects.filter(pk=workspace_id).values_list("x", "y").first()
    return found or (0.0, 0.0)
