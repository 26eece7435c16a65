"""The HTTP wire format: JSON in, compact JSON out, one error shape. Limits: limits.py.

Source: docs/reference/http.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Any
from uuid import UUID

import orjson
import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, SuspiciousOperation
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions, serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from config.errors import BadRequest, DomainError, Unauthorized, datastore_unavailable

log = structlog.get_logger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
CONSOLE_PREFIXES = ("/console/", "/static/")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_NESTING = 200  # deeper JSON is an attack on whoever walks it


def rfc3339(moment: datetime) -> str:
    """UTC with `Z` and all six digits of the microseconds: clients send the text back as a cursor."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def to_json(value: Any) -> bytes:
    """Compact JSON (no space after `:` or `,`).

    The database gives a number like 1e30 back as an integer of 31 digits, which the encoder does not take: it
    goes out as it came in.
    """
    option = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(value, default=_encode, option=option)
    except TypeError:
        return orjson.dumps(_without_big_integers(value), default=_encode, option=option)


def _without_big_integers(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else float(value)
        case Mapping():
            return {name: _without_big_integers(one) for name, one in value.items()}
        case list() | tuple():
            return [_without_big_integers(one) for one in value]
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def from_json(body: bytes) -> Any:
    """The value of a JSON body; an empty one means `{}`. Raises BadRequest.

    A lone surrogate becomes U+FFFD: agents cut texts inside a pair, and such a message must not be lost.
    """
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _without_lone_surrogates(body)
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and _nesting(value) > MAX_NESTING:
        raise BadRequest("invalid request body")
    return value


def _without_lone_surrogates(body: bytes) -> Any:
    if not _SURROGATE_ESCAPE.search(body):
        raise BadRequest("invalid request body")
    try:
        text = json.dumps(json.loads(body.decode()), ensure_ascii=False, allow_nan=False)
        return orjson.loads(_SURROGATE.sub("\ufffd", text))
    except (ValueError, RecursionError):
        raise BadRequest("invalid request body") from None


def _nesting(value: Any) -> int:
    """Levels of arrays and objects inside each other, found without recursion."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
    return depth


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return HttpResponse(to_json(value), status=status, content_type="application/json", headers=headers)


def error_response(error: DomainError) -> HttpResponse:
    return json_response(error.body, status=error.status, headers=error.headers)


def workspace_uuid(text: str) -> UUID:
    """A workspace id from a path. Raises BadRequest for anything but the canonical 8-4-4-4-12 form."""
    return path_uuid(text, "invalid workspace ID")


def path_uuid(text: str, complaint: str) -> UUID:
    """An id from a path. Raises BadRequest with `complaint` likewise."""
    if not _UUID.fullmatch(text):
        raise BadRequest(complaint)
    return UUID(text)


class AnyJSONParser(BaseParser):
    """Parses every body as JSON, whatever its Content-Type says: shell clients omit it."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return from_json(stream.read())


class CompactJSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> bytes:
        return to_json({} if data is None else data)


class AlwaysJSON(BaseContentNegotiation):
    """One parser, one renderer: Accept and Content-Type decide nothing."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


def parsed(
    serializer_class: type[serializers.Serializer[Any]], request: Request, *, partial: bool = False
) -> dict[str, Any]:
    """The validated body.

    Raises BadRequest with the first problem's text, or the serializer's `error_text`.
    """
    fixed_text = getattr(serializer_class, "error_text", None)
    try:
        body = request.data
    except BadRequest:
        body = None
    if not isinstance(body, Mapping):
        raise BadRequest(fixed_text or "invalid request body")
    serializer = serializer_class(data=body, partial=partial)
    if not serializer.is_valid():
        raise BadRequest(fixed_text or first_text(serializer.errors))
    return dict(serializer.validated_data)


def first_text(errors: Any, field: str = "") -> str:
    """The first message of a (nested) validation error,
    led by its field when the message does not name it.
    """
    if isinstance(errors, Mapping):
        name, inner = next(iter(errors.items()))
        return first_text(inner, "" if name == "non_field_errors" else str(name))
    if isinstance(errors, list) and errors:
        return first_text(errors[0], field)
    text = str(errors)
    generic = getattr(errors, "code", "") in {
        "required",
        "null",
        "blank",
        "invalid",
        "max_length",
        "not_a_list",
    }
    return f"{field}: {text}" if field and generic and field not in text else text


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response:
    """Renders a verb's error, the framework's own and everything unforeseen in the one error shape."""
    known = as_domain_error(error)
    if known is None:
        log.exception("request.failed", path=context["request"].path, exc_info=error)
        known = DomainError("internal error")
    return Response(known.body, status=known.status, headers=known.headers)


class _Framework(DomainError):
    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text, headers=headers)
        self.status = status  # type: ignore[misc]


def as_domain_error(error: Exception) -> DomainError | None:
    """The answer to `error`, or None when nobody foresaw it."""
    match error:
        case DomainError():
            return error
        case OperationalError() | InterfaceError():
            log.error("datastore.unavailable", error=str(error))
            return datastore_unavailable()
        case DatabaseError():
            return None
        case SuspiciousOperation():
            return BadRequest("bad request")
        case Http404() | ObjectDoesNotExist() | exceptions.NotFound():
            return _Framework(404, "not found")
        case exceptions.MethodNotAllowed():
            return _Framework(405, "method not allowed")
        case exceptions.ParseError():
            return BadRequest("invalid request body")
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return Unauthorized("admin auth required")
        case exceptions.PermissionDenied() | PermissionDenied():
            return _Framework(403, "forbidden")
        case exceptions.APIException():
            return _Framework(error.status_code, first_text(error.detail))
    return None


_UNREADABLE_PATH = "workspace.path_is_unreadable"


def marking_unreadable_paths(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that remembers whether the path held bytes that are no UTF-8: Django puts them back
    as they were spelled, and `%FF` then passes for three characters.
    """

    def marked(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            environ.get("PATH_INFO", "").encode("latin-1").decode()
        except UnicodeDecodeError:
            environ[_UNREADABLE_PATH] = True
        return application(environ, start_response)

    return marked


def has_readable_path(request: HttpRequest) -> bool:
    return _UNREADABLE_PATH not in request.META


class MethodNotAllowed(DomainError):
    status = 405


def read_as(method: str | None) -> str:
    """HEAD is GET, whose body the server drops."""
    return "GET" if method == "HEAD" else method or ""


def only(
    *methods: str, consumes: str = "application/json"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a plain view of the API, synchronous or not: these methods, and no CSRF token.

    No cookie of the API identifies anybody by itself. The view's `methods` are what the URL table says of it,
    and `consumes` is the type of its body.
    """

    def check(request: HttpRequest) -> None:
        if read_as(request.method) not in methods:
            raise MethodNotAllowed("method not allowed", headers={"Allow": ", ".join(methods)})

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            check(request)
            return view(request, *args, **kwargs)

        if iscoroutinefunction(view):
            markcoroutinefunction(checked)
        marked = csrf_exempt(checked)
        marked.methods = methods  # type: ignore[attr-defined]
        marked.consumes = consumes  # type: ignore[attr-defined]
        return marked

    return decorate


def per_method(**views: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """One path whose methods are served by different views, a lean one among them."""

    @only(*views)
    def dispatched(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return views[read_as(request.method)](request, *args, **kwargs)

    dispatched.views = views  # type: ignore[attr-defined]
    return dispatched


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return json_response({"error": "not found"}, status=404)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return json_response({"error": "bad request"}, status=400)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return json_response({"error": "forbidden"}, status=403)


def server_error(request: HttpRequest) -> HttpResponse:
    return json_response({"error": "internal error"}, status=500)


# --- Middleware
# -----------------------------------------------------------------------------------------------------


class ErrorBodies(MiddlewareMixin):
    """Errors that leave a plain Django view keep the product's shape."""

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if request.path_info.startswith(CONSOLE_PREFIXES):
            return None
        known = as_domain_error(error)
        if known is None:
            log.exception("request.failed", path=request.path, exc_info=error)
            known = DomainError("internal error")
        return error_response(known)


class AnswerOptions(MiddlewareMixin):
    """A question about a route's options touches nothing: no credential, no limit, no view."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if request.method != "OPTIONS" or request.path_info.startswith((*CONSOLE_PREFIXES, "/cp/")):
            return None
        return json_response({})


class OptionalTrailingSlash(MiddlewareMixin):
    """`/workspaces/` is `/workspaces`: a redirect would drop the body of a POST."""

    def process_request(self, request: HttpRequest) -> None:
        path = request.path_info
        if len(path) > 1 and path.endswith("/") and not path.startswith(CONSOLE_PREFIXES):
            request.path_info = path[:-1]  # one: what ends in two is another path
            request.path = request.path_info


class ConsoleOnly:
    """Applies `CONSOLE_MIDDLEWARE` to the operators' pages and leaves every API request alone."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        self._api = get_response
        self._console = get_response
        self._view_hooks: list[Any] = []
        if iscoroutinefunction(get_response):  # the realtime process serves no pages
            markcoroutinefunction(self)
            return
        for name in reversed(settings.CONSOLE_MIDDLEWARE):
            self._console = import_string(name)(self._console)
            self._view_hooks.insert(0, self._console)

    def __call__(self, request: HttpRequest) -> Any:
        is_page = request.path_info.startswith(CONSOLE_PREFIXES)
        return self._console(request) if is_page else self._api(request)

    def process_view(
        self, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponseBase | None:
        """Passes on to the wrapped middleware: CSRF protection is a view hook."""
        if not request.path_info.startswith(CONSOLE_PREFIXES):
            return None
        for middleware in self._view_hooks:
            hook = getattr(middleware, "process_view", None)
            answer: HttpResponseBase | None = hook(request, view, args, kwargs) if hook else None
            if answer is not None:
                return answer
        return None
