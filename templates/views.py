"""Routes of the catalogue. It is empty in this release; a canvas asks for it at every start."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet


class CatalogueViewSet(ViewSet):
    """`/templates` and `/org/templates`."""

    def list(self, request: Request) -> Response:
        """What can be deployed: nothing yet."""
        return Response([])
