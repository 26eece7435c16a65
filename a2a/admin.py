"""Operators' view of messages that wait: read-only, never their words."""

from __future__ import annotations

from django.contrib import admin

from a2a.models import QueueItem
from config.admin import ReadOnlyAdmin


@admin.register(QueueItem)
class QueueItemAdmin(ReadOnlyAdmin[QueueItem]):
    of_workspace = ("workspace_id",)
    list_display = (
        "enqueued_at",
        "workspace",
        "caller_kind",
        "status",
        "attempts",
        "next_attempt_at",
        "last_error",
    )
    list_filter = ("status", "caller_kind")
    list_select_related = ("workspace",)
    search_fields = ("workspace__name",)
    search_help_text = "part of the target's name"
    ordering = ("-enqueued_at",)
    exclude = ("body", "response_body")
