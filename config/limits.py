"""How large a request may be: its headers, and its body by route, judged before or while it is read.

Source: docs/reference/http.md, Limits.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from io import BytesIO
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

from config.errors import BadRequest, DomainError, TooLarge
from config.http import error_response

HEADER_BYTES = 8 * 1024
ALL_HEADERS_BYTES = 32 * 1024

_MIB = 1024 * 1024
MESSAGE_BYTES = 16 * _MIB
READ_AWAY_BYTES = 16 * _MIB  # more than the proxy in front lets through
READ_AWAY_S = 2.0
STREAMED_BYTES = 64 * _MIB  # what the proxy lets through on the streamed routes
# Routes with a limit other than MAX_JSON_BODY_BYTES; None: streamed, and counted by the route itself.
_BY_ROUTE: dict[str, tuple[str, int | None]] = {
    "message": (r".*/a2a", MESSAGE_BYTES),
    # Texts of up to 1 MiB, which JSON may escape to several times their size.
    "text": (r"/workspaces/[^/]+/(?:memory|memories|delegate|delegations|mcp)(?:/.*)?", 4 * _MIB),
    "webhook": (r"/webhooks/[^/]+", _MIB),
    "org": (r"/org/import", 8 * _MIB),
    "memories": (r"/admin/memories/import", 64 * _MIB),
    "files": (r"/workspaces/[^/]+/files(?:/.*)?|/templates/import|/bundles/.*", 32 * _MIB),
    "streamed": (r"/workspaces/[^/]+/chat/uploads", None),
}
_ROUTES = re.compile("|".join(f"(?P<{name}>{pattern})" for name, (pattern, _) in _BY_ROUTE.items()))


class HeadersTooLarge(DomainError):
    status = 431


class LimitHeaders(MiddlewareMixin):
    """At most 8 KiB a header and 32 KiB in all."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        total = 0
        for name, value in request.META.items():
            if name.startswith("HTTP_"):
                size = len(name) - len("HTTP_") + len(value)
                total += size
                if size > HEADER_BYTES or total > ALL_HEADERS_BYTES:
                    return error_response(HeadersTooLarge("request header fields too large"))
        return None


class LimitBody(MiddlewareMixin):
    """Refuses a body that is larger than its route allows: before it is read, or, without a declared length,
    while it is.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """A streamed body that was refused is taken to its end, for the reason that `_read_away` gives. One
        refused by its length is not: the proxy has done so before us.
        """
        by_length = response.status_code == 413 and not getattr(request, "_read_started", False)
        if response.status_code >= 400 and not by_length and body_limit(request.path_info) is None:
            _read_rest(request)
        return response

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        declared = request.META.get("CONTENT_LENGTH") or ""
        limit = body_limit(request.path_info)
        if declared and not declared.isdecimal():
            return error_response(BadRequest("invalid request body"))
        if limit is None:
            return None
        if getattr(request, "scope", {}).get(_CUT):
            size = limit + 1
        elif not declared and _is_chunked(request):
            size = _take_chunked_body(request, limit)
        else:
            size = int(declared[:20] or 0)
        if size <= limit:
            return None
        _read_away(request, size if declared else READ_AWAY_BYTES)
        return error_response(_too_large(limit))


def _too_large(limit: int) -> TooLarge:
    if limit == MESSAGE_BYTES:
        return TooLarge(f"request body exceeds {limit} byte limit", truncated=True, max_bytes=limit)
    return TooLarge("request body too large")


def _take_chunked_body(request: HttpRequest, limit: int) -> int:
    """Read a body of unknown length, at most a byte more than `limit`, and declare the length that was read:
    Django and the REST framework take a request without one for empty.
    """
    source = getattr(request, "environ", {}).get("wsgi.input") or request._stream
    body = source.read(limit + 1)
    request._stream = BytesIO(body)
    request.META["CONTENT_LENGTH"] = str(len(body))
    return len(body)


def _read_away(request: HttpRequest, at_most: int) -> None:
    """Take what the client is still sending: a proxy that cannot finish its sentence reports a broken server
    instead of our refusal. Nothing of it is kept.
    """
    source = getattr(request, "environ", {}).get("wsgi.input")
    left = min(READ_AWAY_BYTES, at_most)
    while source is not None and left > 0 and (chunk := source.read(min(left, _MIB))):
        left -= len(chunk)


def _read_rest(request: HttpRequest) -> None:
    """What a view left unread of a streamed body, within what the proxy would let through."""
    if not hasattr(request, "environ"):
        return
    declared = request.META.get("CONTENT_LENGTH") or ""
    if len(declared) > 9 or int(declared or 0) > STREAMED_BYTES:
        return
    left, read = STREAMED_BYTES, streamed_body(request)
    with suppress(OSError, ValueError):  # the client has left; the view has closed it
        while left > 0 and (chunk := read(min(left, _MIB))):
            left -= len(chunk)


def streamed_body(request: HttpRequest) -> Callable[[int], bytes]:
    """At most n bytes of the body, none at its end; the framework takes one of unknown length for empty."""
    if request.META.get("CONTENT_LENGTH") or not _is_chunked(request):
        return request.read
    read: Callable[[int], bytes] = request.META["wsgi.input"].read
    return read


def _is_chunked(request: HttpRequest) -> bool:
    return "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower()


def body_limit(path: str) -> int | None:
    """Bytes the body of a request to `path` may have; None when its route counts them itself."""
    found = _ROUTES.fullmatch(path.rstrip("/"))
    if found is None or found.lastgroup is None:
        return int(settings.MAX_JSON_BODY_BYTES)
    limit = _BY_ROUTE[found.lastgroup][1]
    return None if limit is None else max(limit, int(settings.MAX_JSON_BODY_BYTES))


# --- ASGI
# -----------------------------------------------------------------------------------------------------

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_CUT = "workspace.body_was_cut"


class BoundedBody:
    """Ends a body at its route's limit: Django's ASGI handler writes all of it to disk before any middleware
    is asked. `LimitBody` then answers, so that the refusal passes through the layers outside it.
    """

    def __init__(self, application: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        limit = body_limit(scope["path"])
        if limit is None:
            await self._application(scope, receive, send)
            return
        taken = 0

        async def read_away(message: Message) -> None:
            """As `_read_away`, for a client that does not keep us waiting."""
            nonlocal taken
            while message.get("more_body") and taken <= limit + READ_AWAY_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            while message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken <= limit:
                    return message
                if not scope.get(_CUT):
                    scope[_CUT] = True
                    with suppress(TimeoutError):
                        async with asyncio.timeout(READ_AWAY_S):
                            await read_away(message)
                    return {"type": "http.request", "body": b"", "more_body": False}
                message = await receive()  # what is still coming in goes nowhere
            return message

        await self._application(scope, bounded, send)
