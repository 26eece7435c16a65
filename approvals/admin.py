"""Operators' view of the approvals: read-only, with the two decisions as actions."""

from __future__ import annotations

from contextlib import suppress

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from approvals.models import Approval, Status
from approvals.services import decide_approval
from config.admin import ReadOnlyAdmin
from config.errors import NotFound


@admin.register(Approval)
class ApprovalAdmin(ReadOnlyAdmin[Approval]):
    of_workspace = ("workspace_id",)
    list_display = ("action", "workspace", "status", "decided_by", "decided_at", "created_at")
    list_filter = ("status",)
    list_select_related = ("workspace",)
    search_fields = ("action", "workspace__name")
    ordering = ("-created_at",)
    actions = ("approve", "deny")

    @admin.action(description="Approve the selected requests", permissions=["operate"])
    def approve(self, request: HttpRequest, queryset: QuerySet[Approval]) -> None:
        _decide(request, queryset, Status.APPROVED)

    @admin.action(description="Deny the selected requests", permissions=["operate"])
    def deny(self, request: HttpRequest, queryset: QuerySet[Approval]) -> None:
        _decide(request, queryset, Status.DENIED)


def _decide(request: HttpRequest, queryset: QuerySet[Approval], decision: Status) -> None:
    name = request.user.get_username()
    for row in queryset:
        with suppress(NotFound):  # decided by someone else since the page was loaded
            decide_approval(
                workspace_id=row.workspace_id,
                approval_id=row.pk,
                decision=decision,
                decided_by=name,
                actor=f"console:{name}",
            )
