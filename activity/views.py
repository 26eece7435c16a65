"""Routes of the feed, the inbox, messages to the user and the recorded events.

Source: docs/reference/activity.md.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.credentials import Kind
from access.permissions import path_workspace, require_workspace
from activity import search, services
from activity.attachments import checked_attachments
from activity.feed import limit_of, moment_of, parse_query, read_feed
from activity.models import StructureEvent
from activity.serializers import AckInput, ActivityInput, NotifyInput
from config.errors import BadRequest, Forbidden
from config.http import json_response, only, parsed, workspace_uuid
from workspaces.connection import platform_url
from workspaces.views import WorkspaceViewSet

log = structlog.get_logger(__name__)

EVENTS_LIMIT, MAX_EVENTS = 100, 500


@only("GET")
def read(request: HttpRequest, workspace_id: str) -> HttpResponse:
    """`GET /workspaces/:id/activity`, class Workspace: the inbox poll, hence a lean view."""
    one = workspace_uuid(workspace_id)
    principal = principal_of(request)
    require_workspace(principal, one)
    query = parse_query(request.GET.dict(), now=timezone.now())
    query.platform_url = platform_url(request)
    is_inbox = request.GET.get("type") == services.INBOX_TYPE
    rows = read_feed(one, query, acknowledges=is_inbox and principal.kind == Kind.WORKSPACE)
    return json_response(rows)


class ActivityViewSet(WorkspaceViewSet):
    def log(self, request: Request, **kwargs: Any) -> Response:
        given = parsed(ActivityInput, request)
        source = given.get("source_id") or str(self.workspace.pk)
        if source.lower() != str(self.workspace.pk):
            log.warning(
                "activity.foreign_source", workspace_id=str(self.workspace.pk), claimed=ascii(source[:64])
            )
            raise Forbidden("source_id must match authenticated workspace")
        services.log_activity(
            workspace_id=self.workspace.pk,
            activity_type=given["activity_type"],
            announce=True,
            source_id=self.workspace.pk,
            target_id=_target(given.get("target_id")),
            method=given.get("method"),
            summary=given.get("summary"),
            request_body=given.get("request_body", given.get("metadata")),
            response_body=given.get("response_body"),
            duration_ms=given.get("duration_ms"),
            status=given.get("status") or "ok",
            error_detail=given.get("error_detail"),
        )
        return Response({"status": "logged"})

    def acknowledge(self, request: Request, **kwargs: Any) -> Response:
        given = parsed(AckInput, request)
        acked = services.acknowledge(workspace_id=self.workspace.pk, seq=given["acked_seq"])
        return Response({"last_acked_seq": acked})

    def notify(self, request: Request, **kwargs: Any) -> Response:
        given = parsed(NotifyInput, request)
        attachments = checked_attachments(given.get("attachments") or [])
        services.message_user(
            workspace_id=self.workspace.pk,
            name=self.workspace.name,
            message=given["message"],
            attachments=attachments,
        )
        return Response({"status": "sent"})


def _target(given: str | None) -> UUID | None:
    if not given:
        return None
    try:
        return UUID(given)
    except ValueError:
        raise BadRequest("target_id must be a UUID") from None


class SearchViewSet(ViewSet):
    """`/workspaces/:id/session-search`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        given = request.query_params
        limit = limit_of(given.get("limit"), default=search.DEFAULT_LIMIT, most=search.MAX_LIMIT)
        return Response(search.search(path_workspace(self), given.get("q", "").strip(), limit=limit))


class EventViewSet(ViewSet):
    """`/events`: the recorded events, newest first."""

    def list(self, request: Request, workspace_id: str | None = None) -> Response:
        given = request.query_params
        rows = StructureEvent.objects.order_by("-created_at", "-seq")
        if workspace_id is not None:
            rows = rows.filter(workspace_id=workspace_uuid(workspace_id))
        if kind := given.get("type"):
            rows = rows.filter(event_type=kind.replace("\x00", ""))
        if before := given.get("before"):
            rows = rows.filter(created_at__lt=moment_of(before, "before"))
        limit = limit_of(given.get("limit"), default=EVENTS_LIMIT, most=MAX_EVENTS)
        keys = ("id", "event_type", "workspace_id", "payload", "created_at")
        return Response(list(rows.values(*keys)[:limit]))
