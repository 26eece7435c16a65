"""Routes of the registry: agents say that they live, and find each other.

Source: docs/reference/registry.md.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.permissions import path_workspace
from access.rate_limits import meter_of
from config.errors import BadRequest, NotFound, failing_as
from config.http import from_json, json_response, only, workspace_uuid
from workspaces import services
from workspaces.cards import shown
from workspaces.connection import platform_url
from workspaces.models import Workspace
from workspaces.registry_serializers import access_question, card_update, registration
from workspaces.selectors import can_communicate, peers
from workspaces.views import WorkspaceViewSet


@only("POST")
def heartbeat(request: HttpRequest) -> HttpResponse:
    """`POST /registry/heartbeat`: a lean view, since every agent calls it two or three times a minute."""
    body = from_json(request.body)
    answer = services.heartbeat(
        body if isinstance(body, dict) else {}, request.META.get("HTTP_AUTHORIZATION"), meter_of(request)
    )
    return json_response(answer)


@only("POST")
def register(request: HttpRequest) -> HttpResponse:
    """`POST /registry/register`."""
    wanted = registration(from_json(request.body))
    answer = services.register(
        wanted, request.META.get("HTTP_AUTHORIZATION"), is_operator=lambda: _is_operator(request)
    )
    return json_response(answer)


@only("POST")
def update_card(request: HttpRequest) -> HttpResponse:
    """`POST /registry/update-card`: the agent's own, or an operator at the canvas."""
    workspace_id, card = card_update(from_json(request.body))
    services.update_card(
        workspace_id=workspace_id,
        card=card,
        authorization=request.META.get("HTTP_AUTHORIZATION"),
        is_operator=lambda: _is_operator(request),
    )
    return json_response({"status": "updated"})


@only("POST")
def check_access(request: HttpRequest) -> HttpResponse:
    """`POST /registry/check-access`: open, since it tells no more than whether two ids may talk."""
    caller, target = access_question(from_json(request.body))
    if caller is None or target is None:
        return json_response({"allowed": False})
    is_known = caller != target or Workspace.objects.live().filter(pk=caller).exists()
    return json_response({"allowed": is_known and can_communicate(caller, target)})


def _is_operator(request: HttpRequest) -> bool:
    return principal_of(request).is_admin_class


class DiscoverViewSet(ViewSet):
    """`/registry/discover/:id`. Its auth class looks at the header before the credential."""

    authentication_classes = ()
    caller_id: UUID | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.target_id = workspace_uuid(str(self.kwargs["workspace_id"]))
        super().initial(request, *args, **kwargs)

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        return Response(services.discover(caller_id=self.caller_id, target_id=self.target_id))


class PeerViewSet(WorkspaceViewSet):
    """`/registry/:id/peers`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        wanted = request.query_params.get("q", "").strip()
        if "\x00" in wanted:
            raise BadRequest("q must not contain NUL characters")
        with failing_as("query failed"):
            return Response(peers(self.workspace, wanted=wanted))


class CardViewSet(WorkspaceViewSet):
    """`/workspaces/:id/.well-known/agent-card.json`: the card other agents read,
    reached through this server.
    """

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        row = self.workspace
        if row.agent_card is None:
            raise NotFound("workspace has no agent card")
        url = f"{platform_url(request._request).rstrip('/')}/workspaces/{path_workspace(self)}/a2a"
        card = shown(row.agent_card, workspace_id=row.pk, name=row.name, role=row.role, url=url)
        return Response(card)
