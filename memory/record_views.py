"""Routes of the canvas over namespaces and records. Source: docs/reference/memory.md, Records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from config.errors import BadRequest, NotFound, Unavailable, failing_as
from config.http import rfc3339
from memory import config
from memory.namespaces import Place, reach_of
from memory.scoped_views import plugin_failing_as
from memory.services import records
from memory_store.contract import KINDS, SEARCH_MOST, Memory, Search
from workspaces.views import WorkspaceViewSet

SURFACE = "canvas"
DEFAULT_LIMIT = 50
ID_CHARS = 256
_LABELS = {"workspace": "Workspace", "team": "Team", "org": "Org"}


class RecordViewSet(WorkspaceViewSet):
    """`/workspaces/:id/v2/`: 503 on every route while there is no store."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not config.is_wired():
            raise Unavailable(config.NOT_CONFIGURED)

    def namespaces(self, request: Request, **kwargs: Any) -> Response:
        """Asks no plugin: it answers while that is down."""
        with failing_as("failed to resolve readable namespaces"):
            places = reach_of(self.workspace.pk).places
        return Response(
            {
                "readable": [_place(one) for one in places],
                "writable": [_place(one) for one in places if one.is_writable],
            }
        )

    def list(self, request: Request, **kwargs: Any) -> Response:
        given = request.query_params
        kind = given.get("kind", "")
        if kind and kind not in KINDS:
            raise BadRequest("invalid kind")
        with failing_as("failed to resolve namespaces"):
            reach = reach_of(self.workspace.pk)
        wanted = Search(
            namespaces=[named] if (named := given.get("namespace")) else [],
            query=given.get("q", "").strip(),
            kinds=[kind] if kind else [],
            limit=_limit(given),
        )
        with plugin_failing_as("memory plugin search failed"):
            found = records.search(self.workspace, wanted, surface=SURFACE, reach=reach)
        return Response({"memories": [_shown(one) for one in found]})

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        memory_id = str(kwargs["memory_id"])
        if len(memory_id) > ID_CHARS:
            raise NotFound("memory not found")
        named = request.query_params.get("namespace")
        with plugin_failing_as("memory plugin delete failed"):
            records.forget(self.workspace, memory_id, [named] if named else None)
        return Response({"status": "deleted"})


def _place(one: Place) -> dict[str, str]:
    short = one.owner if one.kind == "org" else one.owner[:8]
    return {"name": one.name, "kind": one.kind, "label": f"{_LABELS[one.kind]} ({one.display_name or short})"}


def _shown(one: Memory) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": one.id,
        "namespace": one.namespace,
        "content": one.content,
        "kind": one.kind,
        "source": one.source,
        "pin": one.pin,
        "created_at": rfc3339(one.created_at),
    }
    author = (one.propagation or {}).get("source_workspace_id")
    more = {
        "expires_at": one.expires_at and rfc3339(one.expires_at),
        "score": one.score,
        "source_workspace_id": author if isinstance(author, str) else None,
    }
    return shown | {name: value for name, value in more.items() if value is not None}


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    return min(number, SEARCH_MOST) or DEFAULT_LIMIT
