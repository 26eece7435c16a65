"""Every route of the org tree with its methods and its auth class."""

from django.urls import path

from access.permissions import AdminAccess, CanvasOrBearer, Public, WorkspaceAccess, by_method
from workspaces.external_views import ExternalViewSet
from workspaces.panel_views import (
    AgentViewSet,
    BudgetViewSet,
    ChoiceViewSet,
    ConfigViewSet,
    ProviderViewSet,
    UsageViewSet,
    ViewportViewSet,
)
from workspaces.permissions import DiscoveryAccess, PeerAccess
from workspaces.registry_views import (
    CardViewSet,
    DiscoverViewSet,
    PeerViewSet,
    check_access,
    heartbeat,
    register,
    update_card,
)
from workspaces.views import TreeViewSet, WorkspaceDetail

urlpatterns = [
    path(
        "workspaces", TreeViewSet.as_view({"get": "list", "post": "create"}, permission_classes=[AdminAccess])
    ),
    path(
        "workspaces/<workspace_id>",
        WorkspaceDetail.as_view(
            {"get": "retrieve", "patch": "partial_update", "delete": "destroy"},
            permission_classes=[by_method(GET=Public, PATCH=WorkspaceAccess, DELETE=AdminAccess)],
        ),
    ),
    # Public: its 404s come before the credential; the view asks for the workspace's token itself.
    path(
        "workspaces/<workspace_id>/state",
        WorkspaceDetail.as_view({"get": "state"}, permission_classes=[Public]),
    ),
    path(
        "workspaces/<workspace_id>/agent",
        AgentViewSet.as_view(
            {"post": "create", "patch": "partial_update", "delete": "destroy"},
            permission_classes=[WorkspaceAccess],
        ),
    ),
    # An operator's: it writes to a second workspace.
    path(
        "workspaces/<workspace_id>/agent/move",
        AgentViewSet.as_view({"post": "move"}, permission_classes=[AdminAccess]),
    ),
    # An agent reads its budget and cannot lift it.
    path(
        "workspaces/<workspace_id>/budget",
        BudgetViewSet.as_view(
            {"get": "retrieve", "patch": "partial_update"},
            permission_classes=[by_method(GET=WorkspaceAccess, PATCH=AdminAccess)],
        ),
    ),
    path(
        "workspaces/<workspace_id>/model",
        ChoiceViewSet.as_view({"get": "retrieve", "put": "update"}, permission_classes=[WorkspaceAccess]),
    ),
    path(
        "workspaces/<workspace_id>/provider",
        ProviderViewSet.as_view({"get": "retrieve", "put": "update"}, permission_classes=[WorkspaceAccess]),
    ),
    path(
        "workspaces/<workspace_id>/config",
        ConfigViewSet.as_view(
            {"get": "retrieve", "patch": "partial_update"}, permission_classes=[WorkspaceAccess]
        ),
    ),
    path(
        "workspaces/<workspace_id>/metrics",
        UsageViewSet.as_view({"get": "retrieve"}, permission_classes=[WorkspaceAccess]),
    ),
    path(
        "canvas/viewport",
        ViewportViewSet.as_view(
            {"get": "retrieve", "put": "update"},
            permission_classes=[by_method(GET=Public, PUT=CanvasOrBearer)],
        ),
    ),
    path(
        "workspaces/<workspace_id>/external/rotate",
        ExternalViewSet.as_view({"post": "rotate"}, permission_classes=[WorkspaceAccess]),
    ),
    path(
        "workspaces/<workspace_id>/external/connection",
        ExternalViewSet.as_view({"get": "connection"}, permission_classes=[WorkspaceAccess]),
    ),
    path(
        "workspaces/<workspace_id>/.well-known/agent-card.json",
        CardViewSet.as_view({"get": "retrieve"}, permission_classes=[PeerAccess]),
    ),
    # Registry: the verbs judge the bearer together with the row (workspaces/services/registrant.py).
    path("registry/register", register),
    path("registry/heartbeat", heartbeat),
    path("registry/update-card", update_card),
    path("registry/check-access", check_access),  # public
    path(
        "registry/discover/<workspace_id>",
        DiscoverViewSet.as_view({"get": "retrieve"}, permission_classes=[DiscoveryAccess]),
    ),
    # The caller is the workspace in the path, or an operator at the canvas.
    path(
        "registry/<workspace_id>/peers",
        PeerViewSet.as_view({"get": "list"}, permission_classes=[WorkspaceAccess]),
    ),
]
