"""Every route of the delegations with its methods and its auth class. Fixed words come before ids."""

from typing import Any

from django.urls import path

from access.permissions import AdminAccess, WorkspaceAccess
from delegations import mcp_views
from delegations.views import AdminDelegationViewSet, DelegationViewSet


def _of_workspace(**actions: str) -> Any:
    return DelegationViewSet.as_view({**actions}, permission_classes=[WorkspaceAccess])


def _of_operator(**actions: str) -> Any:
    return AdminDelegationViewSet.as_view({**actions}, permission_classes=[AdminAccess])


_ONE = "workspaces/<workspace_id>/delegations/<str:delegation_id>"
urlpatterns = [
    path("workspaces/<workspace_id>/delegate", _of_workspace(post="delegate")),
    path("workspaces/<workspace_id>/delegations", _of_workspace(get="list")),
    path("workspaces/<workspace_id>/delegations/record", _of_workspace(post="record")),
    path(f"{_ONE}/update", _of_workspace(post="report")),
    path(f"{_ONE}/heartbeat", _of_workspace(post="beat")),
    path(_ONE, _of_workspace(get="retrieve")),
    path("workspaces/<workspace_id>/mcp", mcp_views.call),
    path("workspaces/<workspace_id>/mcp/stream", mcp_views.stream),
    path("admin/delegations", _of_operator(get="list")),
    path("admin/delegations/stats", _of_operator(get="stats")),
    path("admin/delegations/<str:delegation_id>/resolve", _of_operator(post="resolve")),
]
