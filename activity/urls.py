"""Every route of the activity room with its methods and its auth class."""

from django.urls import path, re_path

from access.permissions import AdminAccess, WorkspaceAccess, WorkspaceOwn
from activity import health
from activity.consumers import CanvasSocket
from activity.streams import stream
from activity.views import ActivityViewSet, EventViewSet, SearchViewSet, read
from config.http import per_method

urlpatterns = [
    path(
        "workspaces/<workspace_id>/activity",
        per_method(
            GET=read,
            POST=ActivityViewSet.as_view({"post": "log"}, permission_classes=[WorkspaceAccess]),
        ),
    ),
    path(
        "workspaces/<workspace_id>/activity/ack",
        ActivityViewSet.as_view({"post": "acknowledge"}, permission_classes=[WorkspaceOwn]),
    ),
    path(
        "workspaces/<workspace_id>/notify",
        ActivityViewSet.as_view({"post": "notify"}, permission_classes=[WorkspaceAccess]),
    ),
    path(
        "workspaces/<workspace_id>/session-search",
        SearchViewSet.as_view({"get": "list"}, permission_classes=[WorkspaceAccess]),
    ),
    path("workspaces/<workspace_id>/events/stream", stream),
    path("events", EventViewSet.as_view({"get": "list"}, permission_classes=[AdminAccess])),
    path("events/<workspace_id>", EventViewSet.as_view({"get": "list"}, permission_classes=[AdminAccess])),
    path("health", health.alive),
    path("health/ready", health.ready),
    path("buildinfo", health.buildinfo),
    path("metrics", health.metrics),
    path("admin/liveness", health.Liveness.as_view({"get": "list"}, permission_classes=[AdminAccess])),
]
websocket_urlpatterns = [re_path(r"^ws/?$", CanvasSocket.as_asgi())]  # type: ignore[arg-type]
