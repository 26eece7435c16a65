"""Operators' view of the schedules: read-only, the prompt as a preview."""

from __future__ import annotations

from django.contrib import admin

from config.admin import ReadOnlyAdmin
from schedules.models import Schedule

PREVIEW_CHARS = 200


@admin.register(Schedule)
class ScheduleAdmin(ReadOnlyAdmin[Schedule]):
    of_workspace = ("workspace_id",)
    list_display = (
        "shown_name",
        "workspace",
        "cron_expr",
        "timezone",
        "enabled",
        "next_run_at",
        "last_run_at",
        "last_status",
        "run_count",
    )
    list_filter = ("enabled", "source", "last_status")
    list_select_related = ("workspace",)
    search_fields = ("name", "workspace__name")
    search_help_text = "part of the schedule's or the workspace's name"
    ordering = ("next_run_at",)
    exclude = ("prompt",)
    readonly_fields = ("prompt_preview",)

    @admin.display(description="name", ordering="name")
    def shown_name(self, row: Schedule) -> str:
        return row.name or "(no name)"

    @admin.display(description="prompt")
    def prompt_preview(self, row: Schedule) -> str:
        return row.prompt[:PREVIEW_CHARS] + ("…" if len(row.prompt) > PREVIEW_CHARS else "")
