"""Where workspaces stand on the canvas: two columns of cards, each as large as the tree below it.

The canvas computes with the same constants; they change together. Source: docs/reference/orgimport.md,
Layout.
"""

from __future__ import annotations

from collections.abc import Sequence

CHILD_WIDTH, CHILD_HEIGHT = 240.0, 130.0
GUTTER, SIDE, HEADER, BOTTOM = 14.0, 16.0, 130.0, 16.0
COLUMNS = 2
ROOT_X, ROOT_Y, ROOT_GAP = 100.0, 100.0, 80.0

Size = tuple[float, float]  # width, height
Point = tuple[float, float]
LEAF: Size = (CHILD_WIDTH, CHILD_HEIGHT)


def size(children: Sequence[Size]) -> Size:
    """The card of a workspace with these children, in order."""
    if not children:
        return LEAF
    columns = min(COLUMNS, len(children))
    heights = _row_heights(children)
    width = 2 * SIDE + _column_width(children) * columns + GUTTER * (columns - 1)
    return width, HEADER + sum(heights) + GUTTER * (len(heights) - 1) + BOTTOM


def slots(children: Sequence[Size]) -> list[Point]:
    """The place of each child relative to its parent."""
    width = _column_width(children)
    tops = [HEADER]
    for height in _row_heights(children):
        tops.append(tops[-1] + height + GUTTER)
    return [
        (SIDE + index % COLUMNS * (width + GUTTER), tops[index // COLUMNS]) for index in range(len(children))
    ]


def _column_width(children: Sequence[Size]) -> float:
    return max((width for width, _ in children), default=CHILD_WIDTH)


def _row_heights(children: Sequence[Size]) -> list[float]:
    heights = [height for _, height in children]
    return [max(heights[start : start + COLUMNS]) for start in range(0, len(heights), COLUMNS)]
