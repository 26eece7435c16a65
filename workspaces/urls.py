"""Every route of the org tree with its methods and its auth class."""

from django.urls import path

from access.permissions import AdminAccess, Public, WorkspaceAccess, by_method
from workspaces.views import TreeViewSet, WorkspaceDetail, heartbeat, register

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
    # Registry: the verbs judge the bearer together with the row (workspaces/services/registrant.py).
    path("registry/register", register),
    path("registry/heartbeat", heartbeat),
]
