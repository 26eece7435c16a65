"""Served by others behind this address: the control plane under `/cp/`, the canvas where no route is ours.

Source: docs/reference/http.md, What is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.cookies import Morsel
from typing import Any
from urllib.parse import quote

import httpx
import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.urls import Resolver404

from access.authentication import address_of
from config.errors import BadGateway, DomainError, NotFound
from config.http import error_response, only
from config.locks import outside_transaction

log = structlog.get_logger(__name__)

TIMEOUT = httpx.Timeout(connect=5.0, read=60.0, write=60.0, pool=5.0)
# Of one connection, not of the request (RFC 9110, 7.6.1); the length is set anew.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    }
)
_CREDENTIALS = frozenset({"authorization", "cookie"})
_PASSED_ON = re.compile(r"auth/.+|orgs(?:/.+)?|billing/.+|templates(?:/.+)?|legal/.+", re.DOTALL)
_TWISTED = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|//|\\|%|[\x00-\x1f\x7f]")


@only("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
def control_plane(request: HttpRequest, path: str) -> HttpResponseBase:
    """`ANY /cp/*`, Public: the control plane judges the credentials, which are kept.

    A path outside the list, or one that could mean another than it says, leaves this process never. Raises
    NotFound, BadGateway.
    """
    if not settings.CP_UPSTREAM_URL or _TWISTED.search(path) or not _PASSED_ON.fullmatch(path):
        raise NotFound("not found")
    target = f"{settings.CP_UPSTREAM_URL}/cp/{_quoted(path)}"
    return _passed_on(request, target, without=frozenset(), failure="control plane unavailable")


def unmatched(request: HttpRequest, exception: Exception | None = None) -> HttpResponseBase:
    """What no route of ours serves: the canvas's when one is configured, else a 404.

    Our credentials stay here.
    """
    if not settings.CANVAS_PROXY_URL or not isinstance(exception, Resolver404) or _is_kept(request.path_info):
        return error_response(NotFound("not found"))
    target = f"{settings.CANVAS_PROXY_URL}/{_quoted(request.path_info.removeprefix('/'))}"
    try:
        return _passed_on(request, target, without=_CREDENTIALS, failure="canvas unavailable")
    except DomainError as error:
        return error_response(error)


def _is_kept(path: str) -> bool:
    return path == "/cp" or path.startswith("/cp/")


def _quoted(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=~")


def _passed_on(
    request: HttpRequest, target: str, *, without: frozenset[str], failure: str
) -> HttpResponseBase:
    outside_transaction()
    query = request.META.get("QUERY_STRING", "")
    url = httpx.URL(f"{target}?{query}" if query else target)
    headers = [(name, value) for name, value in request.headers.items() if _travels(name, without)]
    headers += [
        ("X-Forwarded-For", address_of(request)),
        ("X-Forwarded-Host", request.META.get("HTTP_HOST", "")),
        ("X-Forwarded-Proto", request.scheme or "http"),
    ]
    encoded = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in headers]
    client = httpx.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False)
    try:
        sent = client.build_request(str(request.method), url, headers=encoded, content=request.body or None)
        answer = client.send(sent, stream=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        client.close()
        log.warning("proxy.failed", failure=failure, error=type(error).__name__)
        raise BadGateway(failure) from None
    return _answered(answer, client)


def _travels(name: str, without: frozenset[str]) -> bool:
    return name.lower() not in _HOP_BY_HOP and name.lower() not in without


class _Body:
    """The bytes as they were encoded.

    The server calls `close` also when nothing was read: no connection may stay open after a HEAD.
    """

    def __init__(self, answer: httpx.Response, client: httpx.Client) -> None:
        self._answer = answer
        self._client = client

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._answer.iter_raw()
        except httpx.HTTPError as error:  # too late for another status: the client sees a cut body
            log.warning("proxy.cut", error=type(error).__name__)
            raise

    def close(self) -> None:
        self._answer.close()
        self._client.close()


def _answered(answer: httpx.Response, client: httpx.Client) -> HttpResponseBase:
    response = StreamingHttpResponse(_Body(answer, client), status=answer.status_code)
    del response.headers["Content-Type"]
    for name, value in answer.headers.multi_items():
        if name.lower() == "set-cookie":
            _add_cookie(response, value)
        elif _travels(name, frozenset()):
            response.headers[name.title()] = value
    if length := answer.headers.get("content-length"):
        response.headers["Content-Length"] = length
    return response


class _Verbatim(Morsel[str]):
    """A cookie of somebody else's: sent as it came, unknown attributes included."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def OutputString(self, attrs: Any = None) -> str:
        return self._text


def _add_cookie(response: StreamingHttpResponse, text: str) -> None:
    # Numbered: two cookies of one name differ by their path.
    dict.__setitem__(response.cookies, f"{len(response.cookies)}:{text.partition('=')[0]}", _Verbatim(text))
