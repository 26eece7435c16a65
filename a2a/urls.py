"""Routes of messages between agents."""

from django.urls import path

from a2a.views import QueueViewSet, queue_status, send
from access.permissions import AdminAccess

urlpatterns = [
    path("workspaces/<workspace_id>/a2a", send),
    path("workspaces/<workspace_id>/a2a/queue/<queue_id>", queue_status),
    path(
        "admin/a2a-queue/drop-stale",
        QueueViewSet.as_view({"post": "drop_stale"}, permission_classes=[AdminAccess]),
    ),
]
