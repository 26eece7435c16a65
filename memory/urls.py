"""Routes of this room, each with its methods and its auth class."""

from __future__ import annotations

from django.urls import path

from access.permissions import WorkspaceAccess
from memory.views import KeyValueViewSet as View

_ACCESS = {"permission_classes": [WorkspaceAccess]}

urlpatterns = [
    path("workspaces/<workspace_id>/memory", View.as_view({"get": "list", "post": "create"}, **_ACCESS)),
    path(
        "workspaces/<workspace_id>/memory/<path:key>",
        View.as_view({"get": "retrieve", "delete": "destroy"}, **_ACCESS),
    ),
]
