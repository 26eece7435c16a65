"""Who is calling: the one resolver for HTTP and WebSocket. Source: docs/reference/access.md, Credentials."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.db.models import Q
from django.utils import timezone

from access.client_address import is_local
from access.models import WorkspaceAuthToken
from access.services import token_hash
from config.errors import Forbidden, datastore_unavailable
from config.posture import is_development

MAX_CANDIDATES = 4  # a shell wrapper may add a second Authorization header; servers join them with commas
MAX_TOKEN_CHARS = 512
USED_WINDOW = timedelta(seconds=60)
RESERVED_CALLERS = ("system:", "webhook:", "test:", "channel:")


class Kind(StrEnum):
    ADMIN = "admin"
    WORKSPACE = "workspace"
    DEV_OPEN = "dev-open"
    ANONYMOUS = "anonymous"
    INVALID = "invalid"  # a bearer was presented and is none of ours


@dataclass(frozen=True)
class Principal:
    """The resolved caller. Handlers use this, never a header or a body field, to decide who is calling."""

    kind: Kind
    actor: str
    workspace_id: UUID | None = None
    token_id: UUID | None = None
    generation: int | None = None
    is_authenticated = True  # what the REST framework asks of a user

    @property
    def is_admin_class(self) -> bool:
        """An operator's credential, or a request admitted by the hatch; never a token bound to a
        workspace.
        """
        return self.kind in {Kind.ADMIN, Kind.DEV_OPEN}


ANONYMOUS = Principal(Kind.ANONYMOUS, "anonymous")
INVALID = Principal(Kind.INVALID, "invalid")
ADMIN = Principal(Kind.ADMIN, "admin-token")
DEV_OPEN = Principal(Kind.DEV_OPEN, "dev-open")


def hatch_is_open() -> bool:
    """All boot-time conditions of the development hatch; the request's address is judged in `resolve`."""
    return (
        settings.MOLECULE_DEV_OPEN
        and is_development()
        and not settings.ADMIN_TOKEN
        and not settings.MOLECULE_ORG_ID
        and not settings.CP_UPSTREAM_URL
    )


def bearers(authorization: str | None) -> list[str]:
    """The bearer tokens of the (possibly comma-joined) header, in order; other schemes count as absent."""
    found = []
    for part in (authorization or "").split(",")[:MAX_CANDIDATES]:
        scheme, _, token = part.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            found.append(token.strip())
    return found


def resolve(authorization: str | None, address: str) -> Principal:
    """The caller of a request from `address`. Raises Unavailable when the database cannot be asked: never a
    401.

    Two bearers outside the hatch are an invalid credential unless one of them is empty; inside it the first
    valid counts.
    """
    candidates = bearers(authorization)
    in_hatch = hatch_is_open() and is_local(address)
    if not candidates:
        return DEV_OPEN if in_hatch else ANONYMOUS
    if len(candidates) > 1 and not in_hatch and len(set(candidates)) > 1:
        return INVALID
    for token in candidates:
        principal = _of_token(token)
        if principal is not None:
            return principal
    return INVALID


def _of_token(token: str) -> Principal | None:
    if len(token) > MAX_TOKEN_CHARS:
        return None
    if settings.ADMIN_TOKEN and is_admin_token(token):
        return ADMIN
    try:
        row = (
            WorkspaceAuthToken.objects.live()
            .filter(~Q(workspace__status="removed"), token_hash=token_hash(token))
            .first()
        )
        if row is None:
            return None
        touch(row.pk, row.last_used_at)
    except (DatabaseError, InterfaceError):
        raise datastore_unavailable() from None
    return of_workspace(row.workspace_id, row.pk, row.generation)


def of_workspace(workspace_id: UUID, token_id: UUID, generation: int | None) -> Principal:
    return Principal(Kind.WORKSPACE, f"workspace:{workspace_id}", workspace_id, token_id, generation)


def is_admin_token(token: str) -> bool:
    """Constant time over digests of fixed length."""
    return hmac.compare_digest(
        hashlib.sha256(token.encode()).digest(), hashlib.sha256(settings.ADMIN_TOKEN.encode()).digest()
    )


def touch(token_id: UUID, last_used_at: datetime | None) -> None:
    """Stamp the token's use, at most once a minute: an update per request would be write amplification."""
    now = timezone.now()
    if last_used_at is not None and last_used_at > now - USED_WINDOW:
        return
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - USED_WINDOW)
    WorkspaceAuthToken.objects.filter(stale, pk=token_id).update(last_used_at=now)


def check_claimed_caller(principal: Principal, claimed: str | None) -> None:
    """`X-Workspace-ID` is a claim: it must be the token's own workspace. Raises Forbidden."""
    if not claimed:
        return
    if claimed.lower().startswith(RESERVED_CALLERS):
        raise Forbidden("invalid caller ID")
    if principal.kind == Kind.WORKSPACE and claimed.lower() != str(principal.workspace_id):
        raise Forbidden("caller identity mismatch")
