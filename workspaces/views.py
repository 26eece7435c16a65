"""Routes of the org tree and the registry. Source: docs/reference/workspaces.md, registry.md."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.permissions import path_workspace, require_workspace
from config.errors import Internal, NotFound
from config.http import from_json, json_response, only, parsed
from provisioning import dispatch
from provisioning import services as provisioning
from workspaces import services
from workspaces.connection import connection_payload, platform_url
from workspaces.models import Status, Workspace
from workspaces.serializers import (
    CreateInput,
    UpdateInput,
    listed,
    new_workspace,
    public,
    registration,
    workspace_changes,
)


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

    def list(self, request: Request) -> Response:
        return Response(listed(Workspace.objects.live().order_by("created_at", "pk")))

    def create(self, request: Request) -> Response:
        wanted = new_workspace(parsed(CreateInput, request))
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
        needs_restart = services.update_workspace(
            workspace_id=self.workspace_id,
            changes=changes,
            may_change_infrastructure=principal_of(request).is_admin_class,
        )
        return Response({"status": "updated", **({"needs_restart": True} if needs_restart else {})})

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        removal = services.remove_workspace(
            workspace_id=self.workspace_id, confirmed=request.query_params.get("confirm") == "true"
        )
        owing = services.owing_stop(self.workspace_id)
        failures = provisioning.teardown(owing)
        if failures:
            raise Internal(
                f"workspace marked removed, but {failures} stop call(s) failed — please retry",
                removed_count=removal.cascade + 1,
                stop_failures=failures,
            )
        return Response({"status": "removed", "cascade_deleted": removal.cascade})

    def state(self, request: Request, **kwargs: Any) -> Response:
        """Deletion is told before the credential is looked at: it revokes the tokens, and a polling agent
        must learn of it.
        """
        row = Workspace.objects.filter(pk=self.workspace_id).first()
        if row is None:
            return Response({"workspace_id": self.workspace_id, "deleted": True}, status=404)
        if row.status == Status.REMOVED:
            return Response({"workspace_id": row.pk, "status": row.status, "deleted": True}, status=404)
        require_workspace(principal_of(request), row.pk)
        paused = row.status == Status.PAUSED
        return Response({"workspace_id": row.pk, "status": row.status, "paused": paused, "deleted": False})


@only("POST")
def heartbeat(request: HttpRequest) -> HttpResponse:
    """`POST /registry/heartbeat`: a lean view, since every agent calls it two or three times a minute."""
    body = from_json(request.body)
    answer = services.heartbeat(
        body if isinstance(body, dict) else {}, request.META.get("HTTP_AUTHORIZATION")
    )
    return json_response(answer)


@only("POST")
def register(request: HttpRequest) -> HttpResponse:
    """`POST /registry/register`."""
    wanted = registration(from_json(request.body))
    answer = services.register(wanted, request.META.get("HTTP_AUTHORIZATION"), principal_of(request))
    return json_response(answer)
