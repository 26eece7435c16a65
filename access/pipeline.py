"""The layers between the tenant guard and the route: who calls, how often, and from which page.

Source: docs/reference/http.md, Layers.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

from access.authentication import address_of, resolved
from access.credentials import Kind, Principal
from access.rate_limits import UNLIMITED, Meter, charges, count_failure
from access.windows import Standing, take
from config.errors import DomainError, Forbidden
from config.http import CONSOLE_PREFIXES, error_response
from config.posture import is_development

# Probes and the scraper: neither limited nor asked who they are.
EXEMPT = frozenset({"/health", "/health/ready", "/buildinfo", "/metrics"})
# Judge the bearer together with the row, and charge on the trip to Valkey that they make anyway.
SELF_METERED = frozenset({"/registry/heartbeat"})
# Somebody else's answer, and deliveries of chat providers: all of one provider's come from the same few
# addresses, and one forgotten webhook must not shut out the others.
NOT_COUNTED = ("/cp/", "/webhooks/")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class ResolveCaller(MiddlewareMixin):
    """Finds the caller once, for every layer and view behind. A database that cannot be asked is a 503."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if _is_exempt(request) or not _is_asked_here(request):
            return None
        try:
            resolved(request)
        except DomainError as refusal:
            return error_response(refusal)
        return None


class LimitRate(MiddlewareMixin):
    """Charges the request to its caller, or to its address, and says on every answer what is left."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if _is_exempt(request):
            return None
        if request.path_info in SELF_METERED:
            request.meter = Meter(address_of(request))  # type: ignore[attr-defined]
            return None
        address = address_of(request)
        principal: Principal | None = getattr(request, "principal", None)
        wanted = charges(principal, address)
        standings = take(*wanted) if wanted else []
        shown = standings[0].headers if standings and not is_development() else UNLIMITED
        request.rate_limit_headers = shown  # type: ignore[attr-defined]
        return _refusal(request, standings)

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        meter: Meter | None = getattr(request, "meter", None)
        if response.status_code == 401:
            response = self._count_failure(request) or response
        if meter is not None:
            try:
                meter.charge_alone()
            except DomainError as refusal:
                response = error_response(refusal)
            request.rate_limit_headers = meter.headers  # type: ignore[attr-defined]
        for name, value in getattr(request, "rate_limit_headers", {}).items():
            response.headers.setdefault(name, value)
        return response

    def _count_failure(self, request: HttpRequest) -> HttpResponse | None:
        """A 401 too many of this address becomes a 429, whoever it was answered to."""
        if request.path_info.startswith((*CONSOLE_PREFIXES, *NOT_COUNTED)):
            return None
        principal: Principal | None = getattr(request, "principal", None)
        standings = count_failure(principal.kind if principal else Kind.INVALID, address_of(request))
        is_known = principal is not None and not principal.is_nobody
        return None if is_known else _refusal(request, standings)


def _refusal(request: HttpRequest, standings: list[Standing]) -> HttpResponse | None:
    for standing in standings:
        if standing.is_exceeded:
            request.rate_limit_headers = standing.headers  # type: ignore[attr-defined]
            return error_response(standing.refusal())
    return None


class RefuseForeignOrigin(MiddlewareMixin):
    """What needs no bearer must come from a page of ours.

    A browser sends a cookie whichever page asks, and in the hatch it needs nothing at all. Bearers are
    exempt: no page of somebody else's has one.
    """

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        principal: Principal | None = getattr(request, "principal", None)
        if principal is None or request.method in SAFE or is_own_page(request.META):
            return None
        is_page = bool(request.META.get("HTTP_ORIGIN") or request.META.get("HTTP_REFERER"))
        if principal.kind == Kind.SESSION or (principal.kind == Kind.DEV_OPEN and is_page):
            return error_response(Forbidden("origin not allowed"))
        return None


def is_own_page(headers: Any) -> bool:
    """Whether `Origin` (without one: `Referer`) is this host or an allowed origin."""
    given = headers.get("HTTP_ORIGIN") or headers.get("HTTP_REFERER") or ""
    try:
        parts = urlsplit(given)
    except ValueError:
        return False
    origin = f"{parts.scheme}://{parts.netloc}"
    is_same_host = parts.scheme in {"http", "https"} and parts.netloc == headers.get("HTTP_HOST")
    return bool(parts.netloc) and (is_same_host or origin in settings.CORS_ORIGINS)


def _is_exempt(request: HttpRequest) -> bool:
    return request.path_info in EXEMPT or request.path_info.startswith("/static/")


def _is_asked_here(request: HttpRequest) -> bool:
    """Not for the operators' pages, which have a login of their own, nor for what is passed on to the control
    plane, which must not be asked about its own cookie first.
    """
    path = request.path_info
    return path not in SELF_METERED and not path.startswith((*CONSOLE_PREFIXES, "/cp/"))
