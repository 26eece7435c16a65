"""Operators' view of the tree: read-only."""

from __future__ import annotations

from django.contrib import admin

from config.admin import ReadOnlyAdmin
from workspaces.models import Workspace


@admin.register(Workspace)
class WorkspaceAdmin(ReadOnlyAdmin[Workspace]):
    list_display = ("name", "status", "runtime", "tier", "parent", "last_heartbeat_at", "created_at")
    list_filter = ("status", "runtime", "tier")
    list_select_related = ("parent",)
    search_fields = ("name", "id")
    ordering = ("-created_at",)
    exclude = ("platform_inbound_secret",)
