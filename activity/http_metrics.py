"""Counts every request of this process, rejections included. Source: docs/reference/metrics.md."""

from __future__ import annotations

import time
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.urls import Resolver404, ResolverMatch, resolve

from activity.tally import Tally, tally

_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"}


class CountRequests:
    """Outermost middleware. The label `path` is the route's pattern; ids never become labels.

    A stream is counted when it begins, with the time until then.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        self._next = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self._next):
            return self._counted_async(request)
        began = time.perf_counter()
        response = self._next(request)
        count_request(request, response, time.perf_counter() - began)
        return response

    async def _counted_async(self, request: HttpRequest) -> HttpResponseBase:
        began = time.perf_counter()
        response: HttpResponseBase = await self._next(request)
        count_request(request, response, time.perf_counter() - began)
        return response


def count_request(
    request: HttpRequest, response: HttpResponseBase, seconds: float, *, into: Tally = tally
) -> None:
    match = request.resolver_match or _resolved(request.path_info)
    path = _pattern(match.route) if match and match.route is not None else "unmatched"
    method = request.method if request.method in _METHODS else "OTHER"
    labels = {"method": str(method), "path": path, "status": str(response.status_code)}
    into.add("molecule_http_requests_total", **labels)
    into.add("molecule_http_request_duration_seconds_total", int(seconds * 1_000_000), **labels)


def _resolved(path: str) -> ResolverMatch | None:
    """The route of a request that a layer refused before it was routed."""
    try:
        return resolve(path)
    except Resolver404:
        return None


def _pattern(route: str) -> str:
    """`workspaces/<workspace_id>/state` becomes `/workspaces/:id/state`."""
    shown = []
    for part in route.split("/"):
        if part.startswith("<"):
            name = part.strip("<>").split(":")[-1]
            part = ":id" if name == "workspace_id" else f":{name}"
        shown.append(part)
    return "/" + "/".join(shown)
