"""The security headers of every response, refusals and streams included. Source: docs/reference/http.md."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, get_resolver
from django.utils.deprecation import MiddlewareMixin

API_POLICY = "default-src 'self'"
# Pages of the canvas that is served behind this address.
CANVAS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; frame-src 'self' blob:; connect-src 'self' ws: wss:; font-src 'self' data:"
)
# The operators' pages are rendered with inline styles and scripts by the admin theme.
CONSOLE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:"
)


class SecurityHeaders(MiddlewareMixin):
    """One that a view set itself stays."""

    HEADERS = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        for name, value in self.HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Content-Security-Policy", _policy(request.path_info))
        return response


def _policy(path: str) -> str:
    if path.startswith("/console/"):
        return CONSOLE_POLICY
    return API_POLICY if is_api_path(path) else CANVAS_POLICY


def is_api_path(path: str) -> bool:
    """Whether the first segment is one of the URL table's: `/org/x` is the API's, `/orgsomething` is not."""
    return path.removeprefix("/").partition("/")[0] in _first_segments(settings.ROOT_URLCONF)


@cache
def _first_segments(urlconf: str) -> frozenset[str]:
    return frozenset(_segments(get_resolver(urlconf).url_patterns)) | {"static"}


def _segments(patterns: list[Any]) -> Iterator[str]:
    for entry in patterns:
        first = str(entry.pattern).partition("/")[0]
        if first:
            yield first
        elif not isinstance(entry, URLPattern):
            yield from _segments(entry.url_patterns)
