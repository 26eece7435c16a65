"""The store over HTTP: `{"code","message"}` for every error. Source: docs/reference/memory-plugin.md."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import orjson
from django.db import DatabaseError, DataError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from psycopg_pool import PoolTimeout

from memory_store import plugin_settings
from memory_store import services as store
from memory_store.contract import (
    KEPT,
    VERSION,
    Code,
    StoreError,
    bad,
    changes_from,
    checked_name,
    memory_json,
    namespace_json,
    read_moment,
    read_object,
    read_object_or_none,
    search_from,
    write_from,
)

log = logging.getLogger("memory_plugin")
BODY_BYTES = 2 * 1024 * 1024
STATUS = {
    Code.BAD_REQUEST: 400,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}

Answer = tuple[int, Any]


def answering(*methods: str, otherwise: int = 404) -> Callable[[Callable[..., Answer]], Any]:
    """A view from a function of status and body; another method is an error of status `otherwise`."""

    def decorate(verb: Callable[..., Answer]) -> Any:
        @csrf_exempt
        @wraps(verb)
        def view(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if not _is_known(request):
                return _error(401, Code.FORBIDDEN, "a token is needed")
            if methods and request.method not in methods:
                if otherwise == 405:
                    return _error(405, Code.BAD_REQUEST, "method not allowed")
                return _error(404, Code.NOT_FOUND, "no route")
            return _respond(verb, request, kwargs)

        return view

    return decorate


@csrf_exempt
def health(request: HttpRequest) -> HttpResponse:
    """Open to all: what can be done, and whether the database answers now."""
    if request.method != "GET":
        return _error(404, Code.NOT_FOUND, "no route")
    try:
        store.ping()
        capabilities = store.capabilities()
        status, word = 200, "ok"
    except (DatabaseError, InterfaceError, PoolTimeout):
        status, word, capabilities = 503, "degraded", ()
    return _json(status, {"status": word, "version": VERSION, "capabilities": list(capabilities)})


@answering("PUT", "PATCH", "DELETE", otherwise=405)
def namespace(request: HttpRequest, name: str) -> Answer:
    if request.method == "DELETE":
        store.delete_namespace(name)
        return 204, None
    fields = read_object(_body(request))
    changes: dict[str, Any] = {
        "expires_at": read_moment(fields, "expires_at") if "expires_at" in fields else KEPT,
        "metadata": read_object_or_none(fields, "metadata") if "metadata" in fields else KEPT,
    }
    if request.method == "PATCH":
        return 200, namespace_json(store.patch_namespace(name, **changes))
    return 200, namespace_json(store.put_namespace(name, str(fields.get("kind")), **changes))


@answering("GET")
def namespaces(request: HttpRequest) -> Answer:
    page = store.list_namespaces(request.GET.get("prefix", ""), request.GET.get("cursor"))
    return 200, {
        "namespaces": [namespace_json(one) for one in page.items],
        "next_cursor": page.next_cursor,
    }


@answering("PUT", "PATCH", "DELETE", otherwise=405)
def nameless(request: HttpRequest) -> Answer:
    raise bad("invalid namespace name")


@answering("POST", "GET")
def records(request: HttpRequest, name: str) -> Answer:
    if request.method == "GET":
        page = store.list_records(name, request.GET.get("cursor"), _limit(request))
        return 200, {"memories": [memory_json(one) for one in page.items], "next_cursor": page.next_cursor}
    checked_name(name)
    return 201, {"id": str(store.commit(name, write_from(_body(request)))), "namespace": name}


@answering("POST")
def search(request: HttpRequest) -> Answer:
    return 200, {"memories": [memory_json(one) for one in store.search(search_from(_body(request)))]}


@answering("GET", "PATCH", "DELETE")
def record(request: HttpRequest, memory_id: str) -> Answer:
    """Of the namespace that asks, named by the body or the query."""
    fields = read_object(_body(request)) if request.body else {}
    name = checked_name(fields.get("requested_by_namespace") or request.GET.get("requested_by_namespace"))
    if request.method == "DELETE":
        store.forget(memory_id, name)
        return 204, None
    if request.method == "GET":
        return 200, memory_json(store.get(memory_id, name))
    return 200, memory_json(store.update(memory_id, name, changes_from(fields)))


@csrf_exempt
def no_route(request: HttpRequest) -> HttpResponse:
    return _error(404, Code.NOT_FOUND, "no route")


def _respond(verb: Callable[..., Answer], request: HttpRequest, kwargs: Mapping[str, Any]) -> HttpResponse:
    if len(request.body) > BODY_BYTES:
        return _error(413, Code.BAD_REQUEST, "the body is larger than 2 MiB")
    try:
        status, answer = verb(request, **kwargs)
    except StoreError as refused:
        return _error(STATUS[refused.code], refused.code, refused.message)
    except DataError:  # NUL in a text, a year that no timestamp has
        return _error(400, Code.BAD_REQUEST, "the store cannot keep such a value")
    except (OperationalError, InterfaceError, PoolTimeout):
        log.exception("the database is away")
        return _error(503, Code.UNAVAILABLE, "the store is unavailable")
    except Exception:
        log.exception("a request failed")
        return _error(500, Code.INTERNAL, "internal error")
    return _json(status, answer) if status != 204 else HttpResponse(status=204)


def _is_known(request: HttpRequest) -> bool:
    wanted = plugin_settings.MEMORY_PLUGIN_TOKEN
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return not wanted or hmac.compare_digest(given.encode(), wanted.encode())


def _body(request: HttpRequest) -> Any:
    """NaN and the infinities are no JSON."""
    try:
        return orjson.loads(request.body)
    except (json.JSONDecodeError, RecursionError):
        raise bad("invalid JSON") from None


def _limit(request: HttpRequest) -> int:
    try:
        return int(request.GET.get("limit", store.PAGE))
    except ValueError:
        raise bad("limit must be a whole number") from None


def _json(status: int, answer: Any) -> HttpResponse:
    return HttpResponse(orjson.dumps(answer), status=status, content_type="application/json")


def _error(status: int, code: Code, message: str) -> HttpResponse:
    return _json(status, {"code": str(code), "message": message})
