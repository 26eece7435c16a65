"""Bases of the operators' pages."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

M = TypeVar("M", bound=Model)

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


class ReadOnlyAdmin(ModelAdmin, Generic[M]):  # type: ignore[misc]
    """A list and a detail page without any form: what changes rows is an action that calls a verb."""

    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """For actions that ask for `permissions=["operate"]`: seeing a row is no right to act on it."""
        return request.user.has_perm("console.operate")
