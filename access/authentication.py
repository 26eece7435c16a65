"""The resolver as the REST framework's authentication: one look-up per request, cached on it."""

from __future__ import annotations

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from access.client_address import UNKNOWN
from access.credentials import Principal, check_claimed_caller, resolve


def principal_of(request: HttpRequest | Request) -> Principal:
    """The caller of `request`. Raises Unavailable, or Forbidden for a false `X-Workspace-ID`."""
    plain = request._request if isinstance(request, Request) else request
    known: Principal | None = getattr(plain, "principal", None)
    if known is None:
        address = getattr(plain, "client_address", UNKNOWN)
        known = resolve(plain.META.get("HTTP_AUTHORIZATION"), address)
        plain.principal = known  # type: ignore[attr-defined]
        check_claimed_caller(known, plain.META.get("HTTP_X_WORKSPACE_ID"))
    return known


class CredentialAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Principal, None]:
        return principal_of(request), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
