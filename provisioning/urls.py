"""Routes of this room, each with its methods and its auth class."""

from __future__ import annotations

from django.urls import path, re_path, register_converter
from django.urls.converters import PathConverter

from access.permissions import AdminAccess, Public, WorkspaceAccess
from provisioning.consumers import TerminalSocket
from provisioning.file_views import FileViewSet
from provisioning.operator_views import (
    ComputeViewSet,
    DuplicatesViewSet,
    ImagesViewSet,
    PlanViewSet,
)
from provisioning.permissions import BootAccess
from provisioning.plugin_views import PluginCatalogueViewSet
from provisioning.plugin_views import PluginViewSet as Plugins
from provisioning.terminal_views import TerminalViewSet
from provisioning.views import BootFailure, BootView, BootViewSet
from provisioning.views import LifecycleViewSet as View


class AnyPath(PathConverter):
    """Line breaks included: what is no path is refused as one, and not as a route nobody knows."""

    regex = r"(?s:.+)"


register_converter(AnyPath, "any")
_ACCESS = {"permission_classes": [WorkspaceAccess]}
_PUBLIC = {"permission_classes": [Public]}
_ADMIN = {"permission_classes": [AdminAccess]}
_BOOT = {"permission_classes": [BootAccess]}

urlpatterns = [
    path("admin/compute", ComputeViewSet.as_view({"get": "list"}, **_ADMIN)),
    path("admin/workspace-images/refresh", ImagesViewSet.as_view({"post": "refresh"}, **_ADMIN)),
    path("admin/workspaces/duplicates", DuplicatesViewSet.as_view({"get": "list"}, **_ADMIN)),
    path("admin/workspaces/duplicates/cleanup", DuplicatesViewSet.as_view({"post": "clean_up"}, **_ADMIN)),
    path("workspaces/<workspace_id>/restart", View.as_view({"post": "restart"}, **_ACCESS)),
    path("workspaces/<workspace_id>/pause", View.as_view({"post": "pause"}, **_ACCESS)),
    path("workspaces/<workspace_id>/resume", View.as_view({"post": "resume"}, **_ACCESS)),
    path("workspaces/<workspace_id>/hibernate", View.as_view({"post": "hibernate"}, **_ACCESS)),
    path("workspaces/<workspace_id>/provision-runs", View.as_view({"get": "runs"}, **_ACCESS)),
    path("workspaces/<workspace_id>/provision-plan", PlanViewSet.as_view({"post": "create"}, **_ADMIN)),
    path("workspaces/<workspace_id>/console", BootViewSet.as_view({"get": "console"}, **_ADMIN)),
    path("workspaces/<workspace_id>/boot-log", BootViewSet.as_view({"get": "log"}, **_ADMIN)),
    path(
        "workspaces/<workspace_id>/terminal/diagnose", TerminalViewSet.as_view({"get": "diagnose"}, **_ACCESS)
    ),
    path("workspaces/<workspace_id>/transcript", TerminalViewSet.as_view({"get": "transcript"}, **_ACCESS)),
    path(
        "workspaces/<workspace_id>/files", FileViewSet.as_view({"get": "list", "put": "overlay"}, **_ACCESS)
    ),
    path(
        "workspaces/<workspace_id>/files/<any:path>",
        FileViewSet.as_view({"get": "read", "put": "write", "delete": "remove"}, **_ACCESS),
    ),
    path("plugins", PluginCatalogueViewSet.as_view({"get": "list"}, **_PUBLIC)),
    path("plugins/sources", PluginCatalogueViewSet.as_view({"get": "sources"}, **_PUBLIC)),
    path(
        "workspaces/<workspace_id>/plugins",
        Plugins.as_view({"get": "list", "post": "create"}, **_ACCESS),
    ),
    path("workspaces/<workspace_id>/plugins/available", Plugins.as_view({"get": "available"}, **_ACCESS)),
    path(
        "workspaces/<workspace_id>/plugins/compatibility",
        Plugins.as_view({"get": "compatibility"}, **_ACCESS),
    ),
    path("workspaces/<workspace_id>/plugins/<name>", Plugins.as_view({"delete": "destroy"}, **_ACCESS)),
    path(
        "workspaces/<workspace_id>/plugins/<name>/download",
        Plugins.as_view({"get": "download"}, **_ACCESS),
    ),
    path("internal/workspaces/boot-config", BootView.as_view({"get": "config"}, **_BOOT)),
    path("internal/workspaces/boot-events", BootView.as_view({"post": "event"}, **_BOOT)),
    path(
        "admin/workspaces/<workspace_id>/bootstrap-failed", BootFailure.as_view({"post": "create"}, **_ADMIN)
    ),
]
websocket_urlpatterns = [
    re_path(r"^workspaces/(?P<workspace_id>[^/]+)/terminal/?$", TerminalSocket.as_asgi())  # type: ignore[arg-type]
]
