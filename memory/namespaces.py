"""Whose memories a workspace reads and writes, derived from the live tree on every call.

A list fetched earlier proves nothing: workspaces move. Source: docs/reference/memory.md, Namespaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.db import connection

from config.errors import NotFound

log = structlog.get_logger(__name__)

MAX_HOPS = 50

_LINEAGE = """
WITH RECURSIVE chain(id, parent_id, name, hops) AS (
    SELECT id, parent_id, name, 0 FROM workspaces WHERE id = %(id)s
    UNION ALL SELECT up.id, up.parent_id, up.name, chain.hops + 1
    FROM workspaces up JOIN chain ON up.id = chain.parent_id WHERE chain.hops < %(most)s)
SELECT id, parent_id, name,
       EXISTS (SELECT FROM workspaces WHERE parent_id = %(id)s AND status <> 'removed')
FROM chain ORDER BY hops
"""


@dataclass(frozen=True)
class Place:
    """A namespace as one workspace sees it."""

    name: str
    kind: str
    is_writable: bool
    display_name: str

    @property
    def owner(self) -> str:
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Reach:
    """All namespaces of one workspace, its own first, at one moment of the tree."""

    places: tuple[Place, ...]

    @property
    def readable(self) -> list[str]:
        return [one.name for one in self.places]

    @property
    def writable(self) -> list[str]:
        return [one.name for one in self.places if one.is_writable]

    def can_write(self, name: str) -> bool:
        return name in self.writable

    def intersect_readable(self, wanted: Iterable[str]) -> list[str]:
        """What of `wanted` may be read, in its order, each once; all when nothing is wanted in particular."""
        asked = list(dict.fromkeys(wanted))
        return [name for name in asked if name in self.readable] if asked else self.readable

    def of_kind(self, kind: str) -> list[str]:
        return [one.name for one in self.places if one.kind == kind]


def reach_of(workspace_id: UUID) -> Reach:
    """One statement. Raises NotFound.

    Where the parents form a ring or a chain without end, only the workspace's own namespace is left.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LINEAGE, {"id": workspace_id, "most": MAX_HOPS})
        lineage = cursor.fetchall()
    if not lineage:
        raise NotFound("workspace not found")
    me, parent_id, my_name, is_lead = lineage[0]
    own = Place(f"workspace:{me}", "workspace", True, my_name)
    root_id, above_root, root_name, _ = lineage[-1]
    if above_root is not None:
        log.error("memory.tree_without_root", workspace_id=str(workspace_id))
        return Reach((own,))
    lead_id, _, lead_name, _ = lineage[min(1, len(lineage) - 1)]
    places = [own, Place(f"team:{lead_id}", "team", True, lead_name)]
    if parent_id is not None and is_lead:
        places.append(Place(f"team:{me}", "team", True, my_name))
    places.append(Place(f"org:{root_id}", "org", root_id == me, root_name))
    return Reach(tuple(places))
