"""Routes of the catalogue. Source: docs/reference/templates.md."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from config.errors import BadRequest
from config.http import parsed
from templates import services
from templates.listing import catalogue
from templates.serializers import ImportInput


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
        files = services.checked_files(given["files"])
        new_id = services.import_template(name=name, files=files, actor=principal_of(request).actor)
        return Response({"status": "imported", "id": new_id, "name": name}, status=201)
