"""Routes of external workspaces. Source: docs/reference/external-agents.md."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.permissions import path_workspace
from workspaces import services
from workspaces.connection import connection_payload, platform_url
from workspaces.models import Workspace

NO_STORE = {"Cache-Control": "no-store"}


class ExternalViewSet(ViewSet):
    """`/workspaces/:id/external/...`; a removed workspace is told apart from an unknown one."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.workspace_id = path_workspace(self)
        super().initial(request, *args, **kwargs)

    def rotate(self, request: Request, **kwargs: Any) -> Response:
        row, token = services.rotate_credentials(self.workspace_id)
        return Response({"connection": connection(request, row, token)}, headers=NO_STORE)

    def connection(self, request: Request, **kwargs: Any) -> Response:
        row = services.external_workspace(self.workspace_id)
        return Response({"connection": connection(request, row, "")}, headers=NO_STORE)


def connection(request: Request, row: Workspace, auth_token: str) -> dict[str, str]:
    return connection_payload(
        platform_url=platform_url(request._request),
        workspace_id=row.pk,
        workspace_name=row.name,
        auth_token=auth_token,
    )
