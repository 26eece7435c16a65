"""Routes of bundles. Source: docs/reference/bundles.md."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.permissions import path_workspace, require_place_in_org
from config.errors import BadRequest
from orgimport.bundles import read_bundle
from orgimport.services import bundles


class BundleViewSet(ViewSet):
    def export(self, request: Request, **kwargs: Any) -> Response:
        """`GET /bundles/export/:id`: the workspace and all below it as one document."""
        return Response(bundles.export_bundle(path_workspace(self)))

    @extend_schema(request=OpenApiTypes.OBJECT)
    def create(self, request: Request) -> Response:
        """`POST /bundles/import`: 201; 207 when a descendant failed; when the root did 500, or 409 where its
        name and its variations are taken.
        """
        principal = principal_of(request)
        require_place_in_org(principal, None)
        try:
            given = request.data
        except BadRequest:
            given = None
        imported = bundles.import_bundle(read_bundle(given), actor=principal.actor)
        status = imported.refusal if imported.row is None else 201 if imported.is_whole else 207
        return Response(imported.shown(), status=status)
