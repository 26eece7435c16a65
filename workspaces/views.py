"""Routes of the org tree. Source: docs/reference/workspaces.md."""

from __future__ import annotations

import hashlib
from typing import Any

import structlog
from django.http import HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.permissions import path_workspace, require_place_in_org, require_workspace
from config.errors import NotFound, failing_as
from config.http import parsed, to_json
from provisioning import dispatch
from provisioning import services as provisioning
from templates.listing import chosen_by
from workspaces import services
from workspaces.connection import connection_payload, platform_url
from workspaces.models import Status, Workspace
from workspaces.serializers import (
    CreateInput,
    UpdateInput,
    listed,
    new_workspace,
    public,
    workspace_changes,
)

log = structlog.get_logger(__name__)


class WorkspaceViewSet(ViewSet):
    """Base of the routes under `/workspaces/:id/`: a bad id is a 400 before anything else, an unknown one a
    404.

    `self.workspace` is the live row.
    """

    workspace: Workspace

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        workspace_id = path_workspace(self)
        super().initial(request, *args, **kwargs)
        row = Workspace.objects.live().filter(pk=workspace_id).first()
        if row is None:
            raise NotFound("workspace not found")
        self.workspace = row


class TreeViewSet(ViewSet):
    """`/workspaces`."""

    def list(self, request: Request) -> HttpResponseBase:
        """Canvases ask again and again: one that has this very list is told so, without the body."""
        with failing_as("query failed"):
            rows = listed(Workspace.objects.live().order_by("created_at", "pk"))
        body = to_json(rows)
        etag = f'W/"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        response = HttpResponse(body, content_type="application/json", headers=headers)
        return get_conditional_response(request._request, etag=etag, response=response) or response

    def create(self, request: Request) -> Response:
        given = parsed(CreateInput, request)
        wanted = new_workspace(given, chosen_by)
        created = services.create_workspace(wanted)
        row = created.workspace
        if row.is_managed:
            if not dispatch.provision_async(row):
                services.remember_config(row)
            return Response(
                {
                    "id": row.pk,
                    "status": "provisioning",
                    "awareness_namespace": row.awareness_namespace,
                    "workspace_access": row.workspace_access,
                    "name": row.name,
                },
                status=201,
            )
        body: dict[str, Any] = {"id": row.pk, "external": True, "status": row.status, "name": row.name}
        if row.status == Status.AWAITING_AGENT:
            body["connection"] = connection_payload(
                platform_url=platform_url(request._request),
                workspace_id=row.pk,
                workspace_name=row.name,
                auth_token=created.auth_token,
            )
        return Response(body, status=201, headers={"Cache-Control": "no-store"})


class WorkspaceDetail(ViewSet):
    """`/workspaces/:id`."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.workspace_id = path_workspace(self)
        super().initial(request, *args, **kwargs)

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        row = Workspace.objects.filter(pk=self.workspace_id).first()
        if request.query_params.get("include_removed") != "true" or row is None:
            services.check_present(row)
        assert row is not None
        return Response(public(row))

    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        changes = workspace_changes(parsed(UpdateInput, request))
        if "parent_id" in changes:
            require_place_in_org(principal_of(request), changes["parent_id"])
        needs_restart = services.update_workspace(
            workspace_id=self.workspace_id,
            changes=changes,
            may_change_infrastructure=principal_of(request).is_admin_class,
        )
        return Response({"status": "updated", **({"needs_restart": True} if needs_restart else {})})

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        wants_purge = request.query_params.get("purge") == "true"
        removal = services.remove_workspace(
            workspace_id=self.workspace_id, confirmed=request.query_params.get("confirm") == "true"
        )
        if wants_purge:
            services.release_storage(self.workspace_id)
        owing = services.owing_stop(self.workspace_id)
        failures = provisioning.teardown(owing)
        if failures:
            raise services.stops_failed(removed=removal.cascade + 1, failures=failures)
        if wants_purge:
            purged = services.purge_workspaces(self.workspace_id)
            return Response({"status": "purged", "cascade_deleted": purged - 1})
        return Response({"status": "removed", "cascade_deleted": removal.cascade})

    def state(self, request: Request, **kwargs: Any) -> Response:
        """Deletion is told before the credential is looked at: it revokes the tokens,
        and a polling agent must learn of it.
        """
        row = Workspace.objects.filter(pk=self.workspace_id).first()
        if row is None:
            return Response({"workspace_id": self.workspace_id, "deleted": True}, status=404)
        if row.status == Status.REMOVED:
            return Response({"workspace_id": row.pk, "status": row.status, "deleted": True}, status=404)
        require_workspace(principal_of(request), row.pk)
        paused = row.status == Status.PAUSED
        return Response({"workspace_id": row.pk, "status": row.status, "paused": paused, "deleted": False})
