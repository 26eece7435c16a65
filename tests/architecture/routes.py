"""The URL table as data: every route with its methods."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from django.urls import URLPattern, URLResolver, get_resolver

FOREIGN = ("console/",)  # Django's own pages, with Django's own login


@dataclass(frozen=True, order=True)
class Route:
    method: str
    path: str  # `/workspaces/:id/state`

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def url(self, workspace_id: Any = None) -> str:
        """A concrete url: the given (or an unknown) workspace, unknown ids and plain words elsewhere."""
        concrete = self.path.replace(":id", str(workspace_id or uuid4()))
        return re.sub(r":\w+", lambda match: str(uuid4()) if match[0].endswith("id") else "word", concrete)


def routes() -> list[Route]:
    """Every route of the API, sorted."""
    return sorted(set(_walk(get_resolver().url_patterns, "")))


def _walk(patterns: list[URLPattern | URLResolver], prefix: str) -> Iterator[Route]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            if not path.startswith(FOREIGN):
                yield from _walk(pattern.url_patterns, path)
            continue
        for method in _methods(pattern.callback):
            yield Route(method, _shown(path))


def _methods(view: Any) -> list[str]:
    actions = getattr(view, "actions", None)
    if actions:
        return [method.upper() for method in actions if method != "head"]
    methods = getattr(view, "methods", None)
    assert methods, f"{view} says neither `actions` nor `methods`"
    return list(methods)


def _shown(path: str) -> str:
    def name(match: re.Match[str]) -> str:
        word = match[1].split(":")[-1]
        return ":id" if word == "workspace_id" else f":{word}"

    return "/" + re.sub(r"<([^>]+)>", name, path)
