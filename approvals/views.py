"""Routes of the approvals. Source: docs/reference/approvals.md."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.credentials import Kind, hatch_is_open
from access.permissions import RoutedView, path_workspace, require_admin, require_org_of
from approvals import services
from approvals.models import Approval, Status
from approvals.serializers import ApprovalOutput, DecisionInput, PendingOutput, RequestInput
from config.errors import Forbidden, NotFound
from config.http import parsed
from workspaces.views import WorkspaceViewSet

SHOWN = 50
DEFAULT_DECIDER = "human"


class Decider(BasePermission):
    """Operators; a workspace is told why not. Inside the hatch others' tokens pass, the requester's never."""

    def has_permission(self, request: Request, view: RoutedView) -> bool:
        principal = principal_of(request)
        is_requester = principal.workspace_id == path_workspace(view)
        if principal.kind == Kind.WORKSPACE and (is_requester or not hatch_is_open()):
            raise Forbidden("a workspace cannot decide its own approval")
        require_admin(principal)
        require_org_of(principal, path_workspace(view))
        return True


class PendingViewSet(ViewSet):
    """`/approvals/pending`: polled by every canvas, so it changes nothing and asks one indexed query."""

    def list(self, request: Request) -> Response:
        rows = Approval.objects.pending().select_related("workspace").newest_first()[:SHOWN]
        return Response(PendingOutput(rows, many=True).data)


class ApprovalViewSet(WorkspaceViewSet):
    def list(self, request: Request, **kwargs: Any) -> Response:
        rows = Approval.objects.filter(workspace=self.workspace).newest_first()[:SHOWN]
        return Response(ApprovalOutput(rows, many=True).data)

    def create(self, request: Request, **kwargs: Any) -> Response:
        approval = services.request_approval(workspace=self.workspace, **parsed(RequestInput, request))
        return Response({"approval_id": approval.pk, "status": approval.status}, status=201)

    def decide(self, request: Request, approval_id: str, **kwargs: Any) -> Response:
        given = parsed(DecisionInput, request)
        approval = services.decide_approval(
            workspace_id=self.workspace.pk,
            approval_id=_id(approval_id, "approval not found or already decided"),
            decision=Status(given["decision"]),
            decided_by=given.get("decided_by") or DEFAULT_DECIDER,
            actor=principal_of(request).actor,
        )
        return Response({"status": approval.status, "approval_id": approval.pk})

    def withdraw(self, request: Request, approval_id: str, **kwargs: Any) -> Response:
        approval = services.withdraw_approval(
            workspace_id=self.workspace.pk,
            approval_id=_id(approval_id, "approval not found"),
            actor=principal_of(request).actor,
        )
        return Response({"status": approval.status, "approval_id": approval.pk})


def _id(given: str, unknown: str) -> UUID:
    """Raises NotFound: an id that is none names nothing."""
    try:
        return UUID(given)
    except ValueError:
        raise NotFound(unknown) from None
