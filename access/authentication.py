"""The resolver as the REST framework's authentication: one look-up per request, cached on it."""

from __future__ import annotations

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from access.client_address import UNKNOWN
from access.credentials import Principal, check_claimed_caller, resolve


def resolved(request: HttpRequest) -> Principal:
    """The caller, whatever it claims to be. Raises Unavailable."""
    known: Principal | None = getattr(request, "principal", None)
    if known is None:
        known = resolve(
            request.META.get("HTTP_AUTHORIZATION"), address_of(request), request.META.get("HTTP_COOKIE")
        )
        request.principal = known  # type: ignore[attr-defined]
    return known


def principal_of(request: HttpRequest | Request) -> Principal:
    """The caller of `request`. Raises Unavailable, or Forbidden for a false `X-Workspace-ID`."""
    plain = request._request if isinstance(request, Request) else request
    known = resolved(plain)
    check_claimed_caller(known, plain.META.get("HTTP_X_WORKSPACE_ID"))
    return known


def address_of(request: HttpRequest) -> str:
    """The client's address, as `ClientAddress` found it."""
    return str(getattr(request, "client_address", UNKNOWN))


class CredentialAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Principal, None]:
        return principal_of(request), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
