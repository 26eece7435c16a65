"""Routes of the channels. Source: docs/reference/chat_channels.md."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any
from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.permissions import require_org_of
from chat_channels import services
from chat_channels.adapters import ADAPTERS
from chat_channels.adapters.base import Delivery
from chat_channels.models import Channel
from chat_channels.serializers import (
    ChannelChanges,
    ChannelInput,
    ChannelOutput,
    ChannelSendInput,
    ChannelTestInput,
    DiscoverInput,
)
from config.errors import NotFound
from config.http import parsed, workspace_uuid
from workspaces.models import Workspace
from workspaces.views import WorkspaceViewSet


class AdapterViewSet(ViewSet):
    """`/channels/*`: what belongs to no workspace."""

    def list(self, request: Request) -> Response:
        shown = [
            {
                "type": adapter.type,
                "display_name": adapter.display_name,
                "config_schema": [field.shown() for field in adapter.config_schema],
            }
            for adapter in ADAPTERS.values()
        ]
        return Response(shown)

    def discover(self, request: Request) -> Response:
        given = parsed(DiscoverInput, request)
        workspace_id = workspace_uuid(given.pop("workspace_id"))
        require_org_of(principal_of(request), workspace_id)
        if not Workspace.objects.live().filter(pk=workspace_id).exists():
            raise NotFound("workspace not found")
        chats, hint = services.discover_chats(workspace_id=workspace_id, **given)
        return Response({"chats": [asdict(chat) for chat in chats], "hint": hint})


class ChannelViewSet(WorkspaceViewSet):
    """`/workspaces/:id/channels`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        rows = Channel.objects.filter(workspace=self.workspace).order_by("created_at", "pk")
        return Response(ChannelOutput(rows, many=True).data)

    def create(self, request: Request, **kwargs: Any) -> Response:
        row = services.create_channel(workspace_id=self.workspace.pk, **parsed(ChannelInput, request))
        return Response({"id": row.pk, "channel_type": row.channel_type, "enabled": row.enabled}, status=201)

    def partial_update(self, request: Request, channel_id: str, **kwargs: Any) -> Response:
        changes = parsed(ChannelChanges, request)
        services.update_channel(workspace_id=self.workspace.pk, channel_id=_id(channel_id), changes=changes)
        return Response({"status": "updated"})

    def destroy(self, request: Request, channel_id: str, **kwargs: Any) -> Response:
        services.delete_channel(workspace_id=self.workspace.pk, channel_id=_id(channel_id))
        return Response({"status": "deleted"})

    def send(self, request: Request, channel_id: str, **kwargs: Any) -> Response:
        given = parsed(ChannelSendInput, request)
        sent = services.send_message(
            workspace_id=self.workspace.pk, channel_id=_id(channel_id), text=given["text"]
        )
        return Response({"status": "sent", **({"failed": sent.failed} if sent.failed else {})})

    def test(self, request: Request, channel_id: str, **kwargs: Any) -> Response:
        given = parsed(ChannelTestInput, request)
        sent = services.send_test(
            workspace_id=self.workspace.pk, channel_id=_id(channel_id), text=given.get("text") or ""
        )
        return Response({"status": "sent", **({"failed": sent.failed} if sent.failed else {})})


class WebhookViewSet(ViewSet):
    """`/webhooks/:type`: open to everybody, and believed only with the signature of a provider."""

    def receive(self, request: Request, channel_type: str) -> Response:
        raw = request._request
        headers = {name.lower(): value for name, value in raw.headers.items()}
        delivery = Delivery(headers, raw.body, time.time())
        return Response(dict(services.receive(channel_type, delivery)))


def _id(given: str) -> UUID:
    """Raises NotFound: an id that is none names nothing."""
    try:
        return UUID(given)
    except ValueError:
        raise NotFound("channel not found") from None
