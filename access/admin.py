"""Operators' view of credentials: read-only, never more of one than its first characters."""

from __future__ import annotations

from django.contrib import admin

from access.models import OrgApiToken, OrgTokenAuditLog, WorkspaceAuthToken
from config.admin import ReadOnlyAdmin


@admin.register(WorkspaceAuthToken)
class WorkspaceAuthTokenAdmin(ReadOnlyAdmin[WorkspaceAuthToken]):
    of_workspace = ("workspace_id",)
    list_display = ("prefix", "workspace", "kind", "generation", "created_at", "last_used_at", "revoked_at")
    list_filter = ("kind",)
    list_select_related = ("workspace",)
    search_fields = ("workspace__name",)
    ordering = ("-created_at",)
    exclude = ("token_hash",)


@admin.register(OrgApiToken)
class OrgApiTokenAdmin(ReadOnlyAdmin[OrgApiToken]):
    of_workspace = ("org_id",)
    list_display = ("prefix", "name", "org", "created_by", "expires_at", "last_used_at", "revoked_at")
    list_select_related = ("org",)
    search_fields = ("name", "created_by")
    ordering = ("-created_at",)
    exclude = ("token_hash",)


@admin.register(OrgTokenAuditLog)
class OrgTokenAuditLogAdmin(ReadOnlyAdmin[OrgTokenAuditLog]):
    of_workspace = ("org_id",)
    list_display = ("created_at", "action", "actor", "token", "org_id", "ip_address")
    list_filter = ("action",)
    list_select_related = ("token",)
    ordering = ("-created_at",)
