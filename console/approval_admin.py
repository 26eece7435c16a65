"""The operators' pages about approvals: what an agent asks, and the two decisions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path, reverse

from approvals.models import Approval, Status
from approvals.services import decide_approval
from console.confirmation import Preview, Subject, confirm, digest
from console.object_pages import ObjectPage, age, page_of
from console.services.audit import Asked, Told

DECISIONS = {"approve": ("Approve", Status.APPROVED), "deny": ("Deny", Status.DENIED)}


@admin.register(Approval)
class ApprovalAdmin(ObjectPage[Approval]):
    of_workspace = ("workspace_id",)
    list_display = ("action", "workspace", "status", "decided_by", "decided_at", "created_at")
    list_filter = ("status",)
    list_select_related = ("workspace",)
    search_fields = ("action", "workspace__name")
    ordering = ("-created_at",)

    def get_urls(self) -> list[Any]:
        acts = path(
            "<uuid:approval_id>/act/<slug:name>/",
            self.admin_site.admin_view(self.act),
            name="approvals_approval_act",
        )
        return [acts, *super().get_urls()]

    def buttons(self, request: HttpRequest, row: Approval) -> list[dict[str, Any]]:
        if row.status != Status.PENDING or not self.has_operate_permission(request):
            return []
        return [
            {"label": label, "url": reverse("admin:approvals_approval_act", args=[row.pk, name])}
            for name, (label, _) in DECISIONS.items()
        ]

    def act(self, request: HttpRequest, approval_id: UUID, name: str) -> HttpResponse:
        row = self.get_object(request, str(approval_id))
        if row is None or name not in DECISIONS:
            raise Http404
        if not self.has_operate_permission(request):
            raise PermissionDenied
        label, decision = DECISIONS[name]
        preview = Preview(
            title=f"{label} the request",
            says="The agent that asked is told at once. A decision is final.",
            headers=("Action", "Reason", "Workspace", "Asked"),
            rows=[(row.action, row.reason or "—", row.workspace.name, age(row.created_at))],
            seen=digest([row.pk, row.status]),
            refusal="" if row.status == Status.PENDING else "It has been decided already.",
        )

        def decide(asked: Asked) -> Told:
            decide_approval(
                workspace_id=row.workspace_id,
                approval_id=row.pk,
                decision=decision,
                decided_by=asked.actor,
                actor=f"console:{asked.actor}",
            )
            return Told("The agent is told.")

        return confirm(
            request,
            self.admin_site,
            preview,
            verb=f"approval.{name}",
            subject=Subject("approval", str(row.pk), row.action),
            does=decide,
            back=page_of(row),
        )
