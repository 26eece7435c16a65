"""The OpenAPI document: read off the URL table, the views' docstrings and the serializers they parse with.

`make openapi` writes docs/reference/openapi.yaml; a test fails when it is out of date. A request body is the
serializer that the action hands to `parsed`, so the document cannot name another.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

FOREIGN = ("console/",)  # Django's own pages
_ANY: dict[str, Any] = {"application/json": {"schema": {}}}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_RESPONSES = {
    name: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for name, text in {
        "Refused": "`error` says why; further keys are named in docs/reference/errors.md.",
        "Unavailable": "Not now, or not foreseen: `error` is a fixed sentence.",
    }.items()
}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_BODIES: dict[str, dict[str, Any]] = {
    "application/json": {"type": "object"},
    "multipart/form-data": {"type": "object", "required": ["files"], "properties": {"files": _FILES}},
}
_REFERENCES = {
    "4XX": {"$ref": "#/components/responses/Refused"},
    "5XX": {"$ref": "#/components/responses/Unavailable"},
}


class Schema(AutoSchema):
    """One operation of a viewset. The shape of answers is the reference pages' subject."""

    def get_request_serializer(self) -> Any:
        return parsed_with(self._action())

    def get_response_serializers(self) -> Any:
        return {"2XX": OpenApiTypes.ANY}

    def map_parsers(self) -> list[str]:
        return ["application/json"]

    def get_description(self) -> str:  # type: ignore[override]  # drf-spectacular passes none
        return inspect.getdoc(self._action()) or inspect.getdoc(type(self.view)) or ""

    def get_operation_id(self) -> str:
        return operation_id(self.method, self.path)

    def get_tags(self) -> list[str]:
        return [type(self.view).__module__.partition(".")[0]]

    def get_auth(self) -> list[Any]:
        names = {getattr(one, "__name__", "") for one in self.view.permission_classes}
        return [{}] if names == {"Public"} else [{"bearer": []}]

    def get_override_parameters(self) -> list[Any]:
        return [
            OpenApiParameter(name, OpenApiTypes.STR, OpenApiParameter.PATH)
            for name in re.findall(r"{(\w+)}", self.path)
        ]

    def _resolve_path_parameters(self, variables: list[str]) -> list[Any]:
        return []  # all of them are texts here; the views judge them

    def _action(self) -> Any:
        actions: dict[str, str] = getattr(self.view, "action_map")  # noqa: B009  (viewsets have one)
        return getattr(self.view, actions[self.method.lower()])


def parsed_with(action: Any) -> Any:
    """The serializer class an action passes to `parsed`, or None: it takes no body, or reads it by hand."""
    function = inspect.unwrap(action)
    for node in ast.walk(ast.parse(dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "parsed":
            return inspect.getmodule(function).__dict__.get(getattr(node.args[0], "id", ""))
    return None


def operation_id(method: str, path: str) -> str:
    """`get_workspaces_id_state`: readable and unique."""
    words = re.sub(r"\W+", "_", path.replace("workspace_id", "id")).strip("_")
    return f"{method.lower()}_{words or 'root'}"


def add_plain_views(result: dict[str, Any], **context: Any) -> dict[str, Any]:
    """Postprocessing: the lean views, which are no framework views, and the one credential scheme."""
    components = result.setdefault("components", {})
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    components["responses"] = _RESPONSES
    for path, view in _plain_views(get_resolver().url_patterns, ""):
        for method, one in getattr(view, "views", dict.fromkeys(view.methods, view)).items():
            if actions := getattr(one, "actions", None):  # a viewset that shares its path with a lean view
                one = getattr(one.cls, actions[method.lower()])
            result["paths"].setdefault(path, {})[method.lower()] = _operation(method, path, one)
    for item in result["paths"].values():
        for operation in item.values():
            operation["responses"].update(_REFERENCES)
    result["paths"] = dict(sorted(result["paths"].items()))
    return result


def _operation(method: str, path: str, view: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(method, path),
        "description": inspect.getdoc(view) or "",
        "tags": [view.__module__.partition(".")[0]],
        "security": [{}, {"bearer": []}],
        "responses": {"2XX": {"description": "", "content": _ANY}},
    }
    names = re.findall(r"{(\w+)}", path)
    if names:
        operation["parameters"] = [
            {"in": "path", "name": name, "required": True, "schema": {"type": "string"}} for name in names
        ]
    if method in {"POST", "PUT", "PATCH"}:
        consumed = getattr(view, "consumes", "application/json")
        operation["requestBody"] = {"content": {consumed: {"schema": _BODIES[consumed]}}}
    return operation


def _plain_views(patterns: list[URLPattern | URLResolver], prefix: str) -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            if not path.startswith(FOREIGN):
                yield from _plain_views(pattern.url_patterns, path)
        elif hasattr(pattern.callback, "methods"):
            yield "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path), pattern.callback
