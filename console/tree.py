"""The org as a picture: every living workspace in its place, coloured by how it is.

Source: docs/reference/console.md, Tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.admin.sites import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from config.admin import within
from config.http import json_response
from workspaces.models import Status, Workspace

MOST = 20_000  # boxes of one picture
# What an operator has to tell apart: well, on its way, asleep, in trouble.
COLOURS: dict[str, str] = {
    Status.ONLINE: "well",
    Status.PROVISIONING: "coming",
    Status.AWAITING_AGENT: "coming",
    Status.PAUSED: "asleep",
    Status.HIBERNATING: "asleep",
    Status.HIBERNATED: "asleep",
    Status.DEGRADED: "worried",
    Status.OFFLINE: "broken",
    Status.FAILED: "broken",
}


@dataclass(frozen=True)
class Box:
    """`x` in columns, `y` in levels; `parent` the place of its parent in the list, -1 for a root."""

    id: UUID
    name: str
    status: str
    x: float
    y: int
    parent: int


def boxes(rows: Sequence[tuple[UUID, UUID | None, str, str]]) -> list[Box]:
    """(id, parent, name, status) laid out: leaves side by side, a parent above the middle of its children.

    A row whose parent is not among them is a root; a ring of parents, which has none, is left out.
    """
    known = {row[0]: row for row in rows}
    children: dict[UUID | None, list[UUID]] = {}
    for row_id, parent, _, _ in rows:
        children.setdefault(parent if parent in known else None, []).append(row_id)
    order = list(_preorder(children))
    xs: dict[UUID, float] = {}
    column = 0
    for row_id, _, _ in order:
        if row_id not in children:
            xs[row_id] = column
            column += 1
    for row_id, _, _ in reversed(order):
        if row_id in children:
            below = [xs[one] for one in children[row_id]]
            xs[row_id] = (below[0] + below[-1]) / 2
    return [
        Box(row_id, known[row_id][2], known[row_id][3], xs[row_id], level, parent)
        for row_id, level, parent in order
    ]


def _preorder(children: dict[UUID | None, list[UUID]]) -> Iterable[tuple[UUID, int, int]]:
    """(id, level, place of the parent), parents before their children, without recursion."""
    waiting = [(one, 0, -1) for one in reversed(children.get(None, []))]
    place = 0
    while waiting:
        row_id, level, parent = waiting.pop()
        yield row_id, level, parent
        waiting += [(one, level + 1, place) for one in reversed(children.get(row_id, []))]
        place += 1


def picture() -> dict[str, Any]:
    """What the template of the picture needs; the boxes come later, by `tree_data`."""
    return {
        "data": reverse("admin:workspaces_workspace_tree_data"),
        "page": reverse("admin:workspaces_workspace_change", args=["ID"]),
        "kinds": list(dict.fromkeys(COLOURS.values())),
    }


def tree_page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    context = {**site.each_context(request), "title": "Tree", "tree": picture()}
    return TemplateResponse(request, "console/tree.html", context)


def tree_data(request: HttpRequest) -> HttpResponse:
    """`{"boxes":[[id, name, status, kind, x, y, parent], …], "left_out": n}`, asked for again every 10 s."""
    rows = list(
        within(Workspace.objects.live(), request, "pk")
        .order_by("created_at", "pk")
        .values_list("pk", "parent_id", "name", "status")[: MOST + 1]
    )
    shown: list[list[Any]] = [
        [str(one.id), one.name, one.status, COLOURS.get(one.status, "broken"), one.x, one.y, one.parent]
        for one in boxes(rows[:MOST])
    ]
    return json_response({"boxes": shown, "is_cut": len(rows) > MOST})
