"""Routes of operators over all memories. Source: docs/reference/memory.md, Backup."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from config.errors import BadRequest, failing_as
from config.http import to_json
from memory.scoped_views import plugin_failing_as
from memory.services import backup

NAMED = 100  # a header has bounds
TRUNCATED = "X-Memory-Export-Truncated"


class BackupViewSet(ViewSet):
    """`/admin/memories/`."""

    def export(self, request: Request) -> HttpResponseBase:
        """The first page is read before the answer begins; one that breaks off later is no JSON."""
        with failing_as("export query failed"), plugin_failing_as("export failed"):
            exported = backup.export()
            first = next(exported.entries, None)
        entries = iter(()) if first is None else chain([first], exported.entries)
        response = StreamingHttpResponse(_array(entries), content_type="application/json")
        if exported.truncated:
            response.status_code = 206
            response.headers[TRUNCATED] = " ".join(exported.truncated[:NAMED])
        return response

    @extend_schema(request=OpenApiTypes.OBJECT)
    def restore(self, request: Request) -> Response:
        try:
            entries = request.data
        except BadRequest:
            entries = None
        if not isinstance(entries, list):
            raise BadRequest("invalid JSON")
        with failing_as("import failed"), plugin_failing_as("import failed"):
            outcome = backup.import_memories(entries)
        return Response(outcome.shown())


def _array(entries: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    yield b"["
    for number, entry in enumerate(entries):
        yield (b"," if number else b"") + to_json(entry)
    yield b"]"
