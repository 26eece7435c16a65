"""From a template to levels of places: what will be written, in which order, and where it stands. Pure.

Source: docs/reference/orgimport.md, Layout.
"""

from __future__ import annotations

from dataclasses import dataclass

from orgimport.layout import Point, Size, size, slots
from orgimport.template import Node, OrgTemplate


@dataclass(frozen=True)
class Place:
    """A node and its slot: relative to its parent, absent for a root. `index` counts in pre-order."""

    index: int
    node: Node
    parent: int | None
    slot: Point | None
    size: Size


def plan(template: OrgTemplate) -> list[list[Place]]:
    """The spawned nodes by depth, each level in the order of the template."""
    levels: list[list[Place]] = []
    _Planning(levels).add(tuple(root for root in template.roots if root.is_spawned), None, 0)
    return levels


class _Planning:
    def __init__(self, levels: list[list[Place]]) -> None:
        self._levels = levels
        self._next = 0
        self._sizes: dict[int, Size] = {}

    def add(self, nodes: tuple[Node, ...], parent: int | None, depth: int) -> None:
        if nodes and len(self._levels) == depth:
            self._levels.append([])
        sizes = [self._size(node) for node in nodes]
        places = [None] * len(nodes) if parent is None else slots(sizes)
        for node, place, its_size in zip(nodes, places, sizes, strict=True):
            index = self._next
            self._next += 1
            self._levels[depth].append(Place(index, node, parent, place, its_size))
            self.add(node.spawned, index, depth + 1)

    def _size(self, node: Node) -> Size:
        known = self._sizes.get(id(node))
        if known is None:
            known = self._sizes[id(node)] = size([self._size(child) for child in node.spawned])
        return known
