"""Routes of a workspace's scoped memories. Source: docs/reference/memory.md, Scopes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import structlog
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.authentication import principal_of
from access.credentials import Kind
from config.errors import BadGateway, BadRequest, failing_as
from config.http import rfc3339
from memory.models import Scope
from memory.services import memories
from memory.services.scoped import LABEL, MOST, Question, Recalled
from memory_store.contract import StoreError
from workspaces.views import WorkspaceViewSet

log = structlog.get_logger(__name__)

LABEL_CHARS = 50
BAD_SCOPE = "scope must be LOCAL, TEAM, or GLOBAL"
BAD_BODY = "invalid request body"
SURFACE = "http"


class MemoryViewSet(WorkspaceViewSet):
    """`/workspaces/:id/memories`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        question = _question(request.query_params, self.workspace.pk)
        with failing_as("search failed"), plugin_failing_as("memory plugin search failed"):
            found = memories.search(self.workspace, question, surface=SURFACE)
        return Response([_shown(one) for one in found])

    @extend_schema(request=OpenApiTypes.OBJECT)
    def create(self, request: Request, **kwargs: Any) -> Response:
        given = _body(request.data, self.workspace.pk)
        content, scope = _text(given, "content"), _scope(_text(given, "scope"))
        label = _label(given) or LABEL
        with failing_as("failed to store memory"), plugin_failing_as("failed to store memory"):
            stored = memories.commit(
                self.workspace, content, scope, label=label, source=_source(request), surface=SURFACE
            )
        return Response({"id": stored.id, "scope": scope, "namespace": label}, status=201)

    @extend_schema(request=OpenApiTypes.OBJECT)
    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        given = _body(request.data, self.workspace.pk)
        content = _text(given, "content") if "content" in given else None
        label = _label(given) if "namespace" in given else None
        if content is None and label is None:
            raise BadRequest("at least one of content or namespace must be set")
        if content is not None and not content.strip():
            raise BadRequest("content cannot be empty")
        if label == "":
            raise BadRequest("namespace cannot be empty")
        with failing_as("failed to update memory"), plugin_failing_as("failed to update memory"):
            edited = memories.edit(self.workspace, str(kwargs["memory_id"]), content, label)
        return Response(
            {
                "id": edited.id,
                "scope": edited.scope,
                "namespace": edited.label,
                "changed": edited.has_changed,
            }
        )

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        with failing_as("delete failed"), plugin_failing_as("delete failed"):
            memories.forget(self.workspace, str(kwargs["memory_id"]))
        return Response({"status": "deleted"})


@contextmanager
def plugin_failing_as(text: str) -> Iterator[None]:
    """Answer a store that fails or refuses with 502 and `text`; its own words go to the log."""
    try:
        yield
    except StoreError as error:
        log.warning("memory.backend_failed", answered=text, code=str(error.code), reason=error.message)
        raise BadGateway(text) from error


def _shown(one: Recalled) -> dict[str, Any]:
    return {
        "id": one.id,
        "workspace_id": one.workspace_id,
        "content": one.shown,
        "scope": one.scope,
        "namespace": one.label,
        "created_at": rfc3339(one.created_at),
        **({} if one.likeness is None else {"similarity_score": one.likeness}),
    }


def _question(given: Mapping[str, str], workspace_id: UUID) -> Question:
    _check_own(given.get("workspace_id"), workspace_id)
    scope = given.get("scope", "")
    limit = given.get("limit", "")
    wanted = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 4 else MOST
    return Question(
        scopes=[_scope(scope)] if scope else Scope.values,
        text=given.get("q", "").strip(),
        label=given.get("namespace", "").replace("\x00", ""),
        limit=wanted if 0 < wanted <= MOST else MOST,
        is_oldest_first=given.get("order") == "asc",
    )


def _body(given: Any, workspace_id: UUID) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise BadRequest(BAD_BODY)
    _check_own(given.get("workspace_id"), workspace_id)
    return given


def _check_own(named: Any, workspace_id: UUID) -> None:
    if named not in (None, "") and str(named).lower() != str(workspace_id):
        raise BadRequest("workspace_id must be the workspace of the path")


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise BadRequest(BAD_BODY)
    return value


def _scope(given: str) -> str:
    scope = given.strip().upper()
    if scope not in Scope.values:
        raise BadRequest(BAD_SCOPE)
    return scope


def _label(given: Mapping[str, Any]) -> str:
    """Empty when it is not named."""
    value = given.get("namespace")
    if value is None:
        return ""
    if not isinstance(value, str) or "\x00" in value:
        raise BadRequest(BAD_BODY)
    if len(value) > LABEL_CHARS:
        raise BadRequest(f"namespace must be <= {LABEL_CHARS} characters")
    return value.strip()


def _source(request: Request) -> str:
    return "agent" if principal_of(request).kind == Kind.WORKSPACE else "user"
