"""Bases of the operators' pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property, reduce
from operator import or_
from typing import Any, ClassVar, Generic, TypeVar

from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

M = TypeVar("M", bound=Model)

# Tells what the ids of the workspaces that somebody may see must be `in`, None for all; filled by the console
# when it is ready.
restrictions: list[Callable[[HttpRequest], Any]] = []


def is_confined(request: HttpRequest) -> bool:
    """Whether this person may see the rows of some orgs alone."""
    return any(one(request) is not None for one in restrictions)


def within(rows: QuerySet[M], request: HttpRequest, *fields: str) -> QuerySet[M]:
    """Those of `rows` that this person may see; `fields` hold ids of workspaces. No field: rows of no org."""
    for one in restrictions:
        if (inside := one(request)) is not None:
            wanted = [Q(**{f"{field}__in": inside}) for field in fields]
            rows = rows.filter(reduce(or_, wanted)) if wanted else rows.none()
    return rows


PAGED = 10_000  # rows that can be paged through; filters and search find the others


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Never counts or skips more than `PAGED` rows, whatever the table holds.

    Up to there `count` is exact; above it is what the database's planner expects.
    """

    object_list: QuerySet[Any]

    @cached_property
    def count(self) -> int:
        found = self.object_list.order_by().values("pk")[: PAGED + 1].count()
        return found if found <= PAGED else max(found, _expected(self.object_list))

    @cached_property
    def num_pages(self) -> int:
        return max(1, -(-min(self.count, PAGED) // self.per_page))


def _expected(rows: QuerySet[Any]) -> int:
    """The planner's guess of how many rows there are."""
    text = rows.order_by().values("pk").explain(format="json")
    return int(json.loads(text)[0]["Plan"]["Plan Rows"])


def _asked_by(one: Any) -> str:
    """What a filter is called in an address."""
    named = one[0] if isinstance(one, tuple) else one
    return named if isinstance(named, str) else str(named.parameter_name)


class ReadOnlyAdmin(ModelAdmin, Generic[M]):  # type: ignore[misc]
    """A list and a detail page without any form: what changes rows is an action that calls a verb.

    `of_workspace` names the columns with the id of the workspace that a row is of: who may see one org alone
    sees its rows, and nothing of a table that has no such column.
    """

    of_workspace: ClassVar[tuple[str, ...]] = ()

    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[M]:
        return within(super().get_queryset(request), request, *self.of_workspace)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may = bool(super().has_view_permission(request, obj))
        return may and (bool(self.of_workspace) or not is_confined(request))

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """The filters on the page and no others: `?value__contains=` would tell what is not shown."""
        field, _, kind = lookup.partition("__")
        is_plain = kind in ("", "exact", "isempty") and "\x00" not in str(value)
        return is_plain and field in {_asked_by(one) for one in self.list_filter}

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """For actions that ask for `permissions=["operate"]`: seeing a row is no right to act on it."""
        return request.user.has_perm("console.operate")
