"""Every route of the approvals with its methods and its auth class."""

from django.urls import path

from access.permissions import AdminAccess, WorkspaceAccess, WorkspaceOwn
from approvals.views import ApprovalViewSet, Decider, PendingViewSet

urlpatterns = [
    path("approvals/pending", PendingViewSet.as_view({"get": "list"}, permission_classes=[AdminAccess])),
    path(
        "workspaces/<workspace_id>/approvals",
        ApprovalViewSet.as_view({"get": "list", "post": "create"}, permission_classes=[WorkspaceAccess]),
    ),
    path(
        "workspaces/<workspace_id>/approvals/<approval_id>/decide",
        ApprovalViewSet.as_view({"post": "decide"}, permission_classes=[Decider]),
    ),
    path(
        "workspaces/<workspace_id>/approvals/<approval_id>/withdraw",
        ApprovalViewSet.as_view({"post": "withdraw"}, permission_classes=[WorkspaceOwn]),
    ),
]
