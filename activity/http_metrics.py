"""Counts every request of this process, rejections included, and adds the sums to the shared counters now
and then.

An in-process sum flushed every few seconds keeps the hot routes free of an extra statement; at most one
interval of
counts is lost with a killed process. Source: docs/reference/metrics.md.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import Counter
from typing import Any

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.http import HttpRequest, HttpResponseBase

from activity.counters import count

log = structlog.get_logger(__name__)

FLUSH_S = 2.0
SOCKETS_KEY = "sockets:"
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"}


class CountRequests:
    """Outermost middleware. The label `path` is the route's pattern; ids never become labels."""

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
        tally.add(request, response, time.perf_counter() - began)
        return response

    async def _counted_async(self, request: HttpRequest) -> HttpResponseBase:
        began = time.perf_counter()
        response: HttpResponseBase = await self._next(request)
        tally.add(request, response, time.perf_counter() - began)
        return response


class Tally:
    """Sums per series, drained by one daemon thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Counter[tuple[str, str, str, str]] = Counter()
        self._thread: threading.Thread | None = None

    def add(self, request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
        match = request.resolver_match
        path = _pattern(match.route) if match and match.route is not None else "unmatched"
        method = request.method if request.method in _METHODS else "OTHER"
        labels = (str(method), path, str(response.status_code))
        with self._lock:
            self._sums[("molecule_http_requests_total", *labels)] += 1
            self._sums[("molecule_http_request_duration_seconds_total", *labels)] += int(seconds * 1_000_000)
            if self._thread is None:  # started on first use, so that a forked server has its own
                self._thread = threading.Thread(target=self._drain, name="http-metrics", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Add what was counted since the last flush to the shared counters; keeps it when the database is
        away.
        """
        with self._lock:
            sums, self._sums = self._sums, Counter()
        if not sums:
            return
        try:
            with transaction.atomic():
                for (name, method, path, status), amount in sorted(sums.items()):
                    count(name, amount, method=method, path=path, status=status)
        except (DatabaseError, InterfaceError) as error:
            log.warning("http_metrics.not_flushed", error=str(error))
            with self._lock:
                self._sums.update(sums)

    def _drain(self) -> None:
        while True:
            time.sleep(FLUSH_S)
            self.flush()
            connection.close()


def _pattern(route: str) -> str:
    """`workspaces/<workspace_id>/state` becomes `/workspaces/:id/state`."""
    shown = []
    for part in route.split("/"):
        if part.startswith("<"):
            name = part.strip("<>").split(":")[-1]
            part = ":id" if name == "workspace_id" else f":{name}"
        shown.append(part)
    return "/" + "/".join(shown)


tally = Tally()
atexit.register(tally.flush)
