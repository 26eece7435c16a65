"""The operators' list of start attempts."""

from __future__ import annotations

from django.contrib import admin

from config.admin import ReadOnlyAdmin
from provisioning.models import ProvisionRun


@admin.register(ProvisionRun)
class ProvisionRunAdmin(ReadOnlyAdmin[ProvisionRun]):
    of_workspace = ("workspace_id",)
    list_display = (
        "queued_at",
        "workspace_id",
        "generation",
        "kind",
        "state",
        "backend",
        "attempts",
        "error_safe",
    )
    list_filter = ("state", "kind", "backend", "error_class")
    search_fields = ("workspace_id", "compute_id")
    ordering = ("-queued_at",)
    exclude = ("error_detail", "options")  # the server's own words: paths and the like
