"""Routes of a workspace's key/value memory. Source: docs/reference/memory.md, Key and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import path_workspace
from config.errors import BadRequest, NotFound, TooLarge, failing_as
from config.http import rfc3339, to_json
from memory import services
from memory.models import KeyValue
from workspaces.views import WorkspaceViewSet

KEY_CHARS = 512
VALUE_BYTES = 1024 * 1024
MAX_TTL_S = 100 * 365 * 86_400
MAX_VERSION = 2**62


class KeyValueViewSet(WorkspaceViewSet):
    """`/workspaces/:id/memory`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        with failing_as("query failed"):
            rows = list(KeyValue.objects.live().filter(workspace_id=self.workspace.pk).order_by("key"))
        return Response([_entry(row) for row in rows])

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        with failing_as("query failed"):
            rows = KeyValue.objects.live().filter(workspace_id=self.workspace.pk)
            row = rows.filter(key=str(kwargs["key"]).replace("\x00", "")).first()
        if row is None:
            raise NotFound("key not found")
        return Response(_entry(row))

    @extend_schema(request=OpenApiTypes.OBJECT)
    def create(self, request: Request, **kwargs: Any) -> Response:
        wish = _wish(request.data)
        with failing_as("failed to set memory"):
            version = services.put(path_workspace(self), wish)
        return Response({"status": "ok", "key": wish.key, "version": version})

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        with failing_as("failed to delete memory"):
            services.delete(self.workspace.pk, str(kwargs["key"]).replace("\x00", ""))
        return Response({"status": "deleted"})


def _entry(row: KeyValue) -> dict[str, Any]:
    entry = {
        "key": row.key,
        "value": row.value,
        "version": row.version,
        "updated_at": rfc3339(row.updated_at),
    }
    return {**entry, "expires_at": rfc3339(row.expires_at)} if row.expires_at else entry


def _wish(given: Any) -> services.Wish:
    """The body, judged by hand: `value` is any JSON, and null is not the same as nothing."""
    if not isinstance(given, Mapping):
        raise BadRequest("invalid request body")
    key = given.get("key")
    if not isinstance(key, str) or not key:
        raise BadRequest("key is required")
    if len(key) > KEY_CHARS or "\x00" in key:
        raise BadRequest(f"key must be at most {KEY_CHARS} characters, without NUL")
    if "value" not in given:
        raise BadRequest("value is required")
    value = given["value"]
    if len(to_json(value)) > VALUE_BYTES:
        raise TooLarge("value is larger than 1 MiB")
    if _holds_nul(value):
        raise BadRequest("value must not contain NUL")
    return services.Wish(
        key,
        value,
        ttl_s=_whole(given, "ttl_seconds", least=1, most=MAX_TTL_S),
        expected=_whole(given, "if_match_version", least=0, most=MAX_VERSION),
    )


def _whole(given: Mapping[str, Any], name: str, *, least: int, most: int) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadRequest(f"{name} must be a whole number of at least {least}")
    return value


def _holds_nul(value: Any) -> bool:
    """What the database cannot keep, in texts and in names."""
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_holds_nul(name) or _holds_nul(one) for name, one in value.items())
    return isinstance(value, list) and any(_holds_nul(one) for one in value)
