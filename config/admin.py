"""Bases of the operators' pages."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from django.db.models import Model
from django.http import HttpRequest
from unfold.admin import ModelAdmin

M = TypeVar("M", bound=Model)


class ReadOnlyAdmin(ModelAdmin, Generic[M]):  # type: ignore[misc]
    """A list and a detail page without any form: what changes rows is an action that calls a verb."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
