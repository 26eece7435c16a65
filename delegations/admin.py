"""The ledger in the operators' console: read, and end what does not end by itself."""

from __future__ import annotations

from contextlib import suppress

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from config.admin import ReadOnlyAdmin
from config.errors import DomainError
from delegations import services
from delegations.models import Delegation


@admin.register(Delegation)
class DelegationAdmin(ReadOnlyAdmin[Delegation]):
    list_display = ("delegation_id", "caller_id", "callee_id", "status", "shown", "deadline", "created_at")
    list_filter = ("status", "source", "delivery")
    search_fields = ("delegation_id", "caller_id", "callee_id", "task_preview")
    ordering = ("-created_at",)
    actions = ("fail",)

    @admin.action(description="Fail the selected delegations", permissions=["view"])
    def fail(self, request: HttpRequest, queryset: QuerySet[Delegation]) -> None:
        for row in queryset:
            with suppress(DomainError):  # it has ended since the page was loaded
                services.fail_delegation(delegation_id=row.pk, reason="", actor=request.user.get_username())
