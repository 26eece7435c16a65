"""Who is calling `/a2a`: the first row of the table that matches, before the body is looked at.

Source: docs/reference/a2a.md, Who may send.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from django.http import HttpRequest

from a2a.callers import CANVAS, Caller, workspace_caller
from access.authentication import resolved
from access.credentials import RESERVED_CALLERS, Kind, Principal
from access.permissions import require_org_of
from config.errors import Forbidden, Unauthorized

log = structlog.get_logger(__name__)


def caller_of(request: HttpRequest, target_id: UUID) -> Caller:
    """Raises Forbidden, Unauthorized; Unavailable when the credential cannot be looked up."""
    claimed = _claimed(request.META.get("HTTP_X_WORKSPACE_ID", "").strip())
    principal = resolved(request)
    if principal.kind == Kind.DEV_OPEN:
        return workspace_caller(claimed) if claimed else CANVAS
    if principal.is_admin_class:
        require_org_of(principal, target_id)
        return CANVAS  # whatever the header says
    return _workspace(principal, claimed)


def _claimed(text: str) -> UUID | None:
    """The id in the header. Labels of the server's own callers exist only inside it."""
    if not text:
        return None
    if text.lower().startswith(RESERVED_CALLERS):
        log.warning("a2a.forged_caller", claimed=ascii(text[:64]))
        raise Forbidden("invalid caller ID")
    try:
        return UUID(text)
    except ValueError:
        raise Forbidden("invalid caller ID") from None


def _workspace(principal: Principal, claimed: UUID | None) -> Caller:
    """The token is bound to the caller, never to the target; a stale one is nobody, not the canvas."""
    if principal.kind == Kind.ANONYMOUS:
        raise Unauthorized("missing caller auth token")
    if principal.kind != Kind.WORKSPACE or principal.workspace_id is None:
        raise Unauthorized("invalid caller auth token")
    if claimed is not None and claimed != principal.workspace_id:
        raise Unauthorized("invalid caller auth token")
    return workspace_caller(principal.workspace_id)
