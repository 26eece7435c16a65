"""A page about one row: its fields, buttons that lead to a confirmation, and tables of what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from config.admin import ReadOnlyAdmin

M = TypeVar("M", bound=Model)


class ObjectPage(ReadOnlyAdmin[M]):
    change_form_outer_before_template = "console/object_actions.html"
    change_form_outer_after_template = "console/object_tables.html"

    def buttons(self, request: HttpRequest, row: M) -> list[dict[str, Any]]:
        """`{label, url, is_dangerous}` of what this person may do here."""
        return []

    def tables(self, request: HttpRequest, row: M) -> list[dict[str, Any]]:
        return []

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is not None and self.has_view_permission(request, row):
            extra_context = {
                **(extra_context or {}),
                "object_actions": self.buttons(request, row),
                "object_tables": self.tables(request, row),
            }
        answer: HttpResponse = super().change_view(request, object_id, form_url, extra_context)
        return answer


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"title": title, "headers": list(headers), "rows": [list(row) for row in rows]}


def page_of(row: Model) -> str:
    meta = row._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[row.pk])


def age(at: datetime | None, now: datetime | None = None) -> str:
    """`45s`, `12m`, `3h`, `2d` since then; a dash for never."""
    if at is None:
        return "—"
    seconds = max(0, int(((now or timezone.now()) - at).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def short(compute_id: str | None) -> str:
    """Enough of a container's id to find it; an instance's id whole."""
    text = compute_id or "—"
    return text if len(text) <= 20 else f"{text[:12]}…"
