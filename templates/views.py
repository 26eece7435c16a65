"""Routes of the catalogue. Source: docs/reference/templates.md."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from config.errors import BadRequest
from config.http import parsed, workspace_uuid
from templates import services
from templates.allowlists import allowed_plugins, replace_allowlist
from templates.listing import catalogue
from templates.serializers import AllowlistInput, ImportInput


class CatalogueViewSet(ViewSet):
    """`/templates`."""

    def list(self, request: Request) -> Response:
        """What a workspace can be created from; broken templates are counted in a header."""
        found = catalogue()
        entries = [found.templates[name].shown() for name in sorted(found.templates)]
        return Response(entries, headers={"X-Templates-Broken": str(found.broken)})

    def create(self, request: Request) -> Response:
        """Add a template made of the given files."""
        given = parsed(ImportInput, request)
        name = given["name"].strip()
        if not name or not given["files"]:
            raise BadRequest("invalid request body")
        try:
            files = services.checked_files(given["files"])
        except services.InvalidPath as refusal:
            raise BadRequest("invalid request body", reason=refusal.text) from None
        new_id = services.import_template(name=name, files=files, actor=principal_of(request).actor)
        return Response({"status": "imported", "id": new_id, "name": name}, status=201)


class AllowlistViewSet(ViewSet):
    """`/orgs/:id/plugins/allowlist`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        org_id = workspace_uuid(str(kwargs["org_id"]))
        rows = allowed_plugins(org_id)
        shown = [
            {"plugin_name": row.plugin_name, "enabled_by": row.enabled_by, "enabled_at": row.enabled_at}
            for row in rows
        ]
        return Response({"org_id": org_id, "plugins": shown, "allow_all": not rows})

    def replace(self, request: Request, **kwargs: Any) -> Response:
        """The whole list at once; an empty one allows all."""
        org_id = workspace_uuid(str(kwargs["org_id"]))
        given = parsed(AllowlistInput, request)
        if not given["enabled_by"].strip():
            raise BadRequest("invalid request body")
        names = replace_allowlist(org_id=org_id, names=given["plugins"], enabled_by=given["enabled_by"])
        return Response({"org_id": org_id, "plugins": names, "allow_all": not names})
