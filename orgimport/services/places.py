"""Where an import's roots stand among what is on the canvas already.

Source: docs/reference/orgimport.md, Layout.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from uuid import UUID

from orgimport.layout import ROOT_GAP, ROOT_X, ROOT_Y, Point, Size, size, slots
from orgimport.planner import Place
from workspaces.models import CanvasLayout, Workspace
from workspaces.selectors import MAX_DEPTH


def first_places(
    places: Sequence[Place], new_ids: Set[UUID], anchor: UUID | None, anchor_at: Point
) -> dict[int, Point]:
    """Absolute positions of the created roots by index: in the next slots of the anchor, else where the
    template wants them, else right of every root there is.
    """
    if anchor is None and all(place.node.canvas for place in places):
        return {place.index: place.node.canvas or (ROOT_X, ROOT_Y) for place in places}
    children = _live_children(without=new_ids)
    if anchor is not None:
        return _below(anchor, anchor_at, places, children)
    return _beside(places, children)


def free_place() -> Point:
    """Where one more root stands: right of every root there is."""
    edges = _edges(_live_children(without=set()))
    return (max(edges) + ROOT_GAP if edges else ROOT_X), ROOT_Y


def _edges(children: dict[UUID | None, list[UUID]]) -> list[float]:
    """How far right each root reaches."""
    roots = children.get(None, [])
    at = {one.pk: one.x for one in CanvasLayout.objects.filter(pk__in=roots)} if roots else {}
    return [at.get(root, 0.0) + _size(root, children)[0] for root in roots]


def _below(
    anchor: UUID, at: Point, places: Sequence[Place], children: dict[UUID | None, list[UUID]]
) -> dict[int, Point]:
    there = [_size(child, children) for child in children.get(anchor, [])]
    free = slots([*there, *(place.size for place in places)])[len(there) :]
    return {place.index: (at[0] + slot[0], at[1] + slot[1]) for place, slot in zip(places, free, strict=True)}


def _beside(places: Sequence[Place], children: dict[UUID | None, list[UUID]]) -> dict[int, Point]:
    edges = _edges(children)
    found: dict[int, Point] = {}
    for place in places:
        given = place.node.canvas
        found[place.index] = given or (max(edges) + ROOT_GAP if edges else ROOT_X, ROOT_Y)
        edges.append(found[place.index][0] + place.size[0])
    return found


def _live_children(*, without: Set[UUID]) -> dict[UUID | None, list[UUID]]:
    children: dict[UUID | None, list[UUID]] = {}
    rows = Workspace.objects.live().order_by("created_at", "pk").values_list("pk", "parent_id")
    for row_id, parent_id in rows:
        if row_id not in without:
            children.setdefault(parent_id, []).append(row_id)
    return children


def _size(row_id: UUID, children: dict[UUID | None, list[UUID]], depth: int = 0) -> Size:
    below = children.get(row_id, []) if depth < MAX_DEPTH else []
    return size([_size(child, children, depth + 1) for child in below])
