"""Is it up, is it consuming, what has it counted. Source: docs/reference/health.md."""

from __future__ import annotations

import hmac
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.client_address import is_local
from access.credentials import bearers
from activity import metrics as exposition
from activity.supervision import overdue, subsystems
from config.errors import NotFound
from config.http import json_response, only
from config.valkey import client

SERVING_SINCE = timezone.now()  # workers that start together with this process get their time


@only("GET")
def alive(request: HttpRequest) -> HttpResponse:
    """`GET /health`, Public: the process answers. Touches nothing."""
    return json_response({"status": "ok"})


@only("GET")
def ready(request: HttpRequest) -> HttpResponse:
    """`GET /health/ready`, Public: 200 when the database and Valkey answer and work is being consumed,
    else 503 that names what is not.
    """
    found: dict[str, Any] = {"database": _database(), "redis": _valkey()}
    is_ok = set(found.values()) == {"ok"}
    if is_ok and (late := _late()):
        is_ok = False
        found |= late
    return json_response({"status": "ok" if is_ok else "error", **found}, status=200 if is_ok else 503)


def _late() -> dict[str, list[str]]:
    """`jobs` that do not tick and `queues` that are not drained, each only when there are some."""
    jobs, queues = overdue(timezone.now(), since=SERVING_SINCE)
    return {name: found for name, found in (("jobs", jobs), ("queues", queues)) if found}


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (DatabaseError, InterfaceError):
        return "error"
    return "ok"


def _valkey() -> str:
    try:
        client().ping()
    except redis.RedisError:
        return "error"
    return "ok"


@only("GET")
def buildinfo(request: HttpRequest) -> HttpResponse:
    """`GET /buildinfo`, Public."""
    return json_response({"git_sha": settings.GIT_SHA})


@only("GET")
def metrics(request: HttpRequest) -> HttpResponse:
    """`GET /metrics`: loopback and private addresses, else only METRICS_TOKEN or an admin;
    404 for everybody else.
    """
    is_near = is_local(request.client_address)  # type: ignore[attr-defined]
    if not (is_near or _has_metrics_token(request) or principal_of(request).is_admin_class):
        raise NotFound("not found")
    return HttpResponse(exposition.render(), content_type="text/plain; version=0.0.4; charset=utf-8")


def _has_metrics_token(request: HttpRequest) -> bool:
    wanted = settings.METRICS_TOKEN
    given = bearers(request.META.get("HTTP_AUTHORIZATION"))
    return bool(wanted) and any(hmac.compare_digest(token.encode(), wanted.encode()) for token in given)


class Liveness(ViewSet):
    """`GET /admin/liveness`: when each background job last ran, and whether that is too long ago."""

    def list(self, request: Request) -> Response:
        return Response({"subsystems": subsystems()})
