"""Every route of the channels with its methods and its auth class."""

from django.urls import path

from access.permissions import AdminAccess, Public, WorkspaceAccess
from chat_channels.views import AdapterViewSet, ChannelViewSet, WebhookViewSet

ONE = "workspaces/<workspace_id>/channels/<channel_id>"

urlpatterns = [
    path("channels/adapters", AdapterViewSet.as_view({"get": "list"}, permission_classes=[Public])),
    path("channels/discover", AdapterViewSet.as_view({"post": "discover"}, permission_classes=[AdminAccess])),
    path("webhooks/<channel_type>", WebhookViewSet.as_view({"post": "receive"}, permission_classes=[Public])),
    path(
        "workspaces/<workspace_id>/channels",
        ChannelViewSet.as_view({"get": "list", "post": "create"}, permission_classes=[WorkspaceAccess]),
    ),
    path(
        ONE,
        ChannelViewSet.as_view(
            {"patch": "partial_update", "delete": "destroy"}, permission_classes=[WorkspaceAccess]
        ),
    ),
    path(f"{ONE}/send", ChannelViewSet.as_view({"post": "send"}, permission_classes=[WorkspaceAccess])),
    path(f"{ONE}/test", ChannelViewSet.as_view({"post": "test"}, permission_classes=[WorkspaceAccess])),
]
