"""Is this request meant for this tenant? A routing check in front of everything else, never authentication.

Active while `MOLECULE_ORG_ID` is set. Source: docs/reference/access.md, Tenant guard.
"""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.deprecation import MiddlewareMixin

from access.same_origin import is_same_origin_canvas
from config.errors import BadRequest, DomainError
from config.http import error_response

# Exact paths: probes, and agents that know the server's address only.
UNGUARDED = frozenset(
    {"/health", "/health/ready", "/buildinfo", "/metrics", "/registry/register", "/registry/heartbeat"}
)


class OtherTenant(DomainError):
    """Answered with an empty body: another tenant's existence is nobody's business."""

    status = 404


def check_tenant(path: str, headers: Mapping[str, str]) -> None:
    """`headers` in the spelling of WSGI (`HTTP_…`).

    Raises BadRequest without a routing header, OtherTenant with a wrong one.
    """
    wanted = settings.MOLECULE_ORG_ID
    if not wanted or path in UNGUARDED or path.startswith("/cp/"):
        return
    named = headers.get("HTTP_X_MOLECULE_ORG_ID", "").strip()
    replayed = headers.get("HTTP_FLY_REPLAY_SRC", "").strip()
    if named == wanted or f"state={wanted}" in [part.strip() for part in replayed.split(";")]:
        return
    if is_same_origin_canvas(headers):
        return
    if not named and not replayed:
        raise BadRequest(
            "missing tenant routing header",
            code="TENANT_ORG_HEADER_REQUIRED",
            required_header="X-Molecule-Org-Id",
        )
    raise OtherTenant("not found")


class TenantGuard(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        try:
            check_tenant(request.path_info, request.META)
        except OtherTenant as refusal:
            return HttpResponse(status=refusal.status)
        except BadRequest as refusal:
            return error_response(refusal)
        return None
