"""Operators' view of staged files: read-only, and never their bytes."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.admin import EmptyFieldListFilter

from config.admin import ReadOnlyAdmin
from uploads.models import ObjectGC, PendingUpload


@admin.register(PendingUpload)
class PendingUploadAdmin(ReadOnlyAdmin[PendingUpload]):
    """Never fetched: the agent is away. Fetched and never acknowledged: it is broken."""

    of_workspace = ("workspace_id",)
    list_display = (
        "filename",
        "workspace_id",
        "size_bytes",
        "created_at",
        "fetched_at",
        "acked_at",
        "expires_at",
    )
    list_filter = (("acked_at", EmptyFieldListFilter), "storage", "is_outbound")
    search_fields = ("filename", "workspace_id")
    ordering = ("-created_at",)
    exclude = ("content",)
    show_full_result_count = False


@admin.register(ObjectGC)
class ObjectGCAdmin(ReadOnlyAdmin[ObjectGC]):
    list_display = ("object_key", "not_before", "attempts", "last_error")
    ordering = ("not_before",)
