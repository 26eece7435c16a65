"""Who is calling: the one resolver for HTTP and WebSocket. Source: docs/reference/access.md, Credentials."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Q
from django.utils import timezone

from access import sessions
from access.client_address import is_local
from access.models import OrgApiToken, WorkspaceAuthToken
from access.services import token_hash
from config.errors import Forbidden, datastore_unavailable
from config.posture import is_development

log = structlog.get_logger(__name__)

MAX_CANDIDATES = 4  # a shell wrapper may add a second Authorization header; servers join them with commas
MAX_TOKEN_CHARS = 512
USED_WINDOW = timedelta(seconds=60)
RESERVED_CALLERS = ("system:", "webhook:", "test:", "channel:")
JUNK_S = 10.0
MAX_JUNK = 10_000

_WORKSPACE_TOKEN = """
SELECT t.workspace_id, t.id, t.generation, t.last_used_at
FROM workspace_auth_tokens t JOIN workspaces w ON w.id = t.workspace_id
WHERE t.token_hash = %s AND t.revoked_at IS NULL AND w.status <> 'removed'
"""


class Kind(StrEnum):
    ADMIN = "admin"
    ORG = "org"
    SESSION = "session"
    WORKSPACE = "workspace"
    DEV_OPEN = "dev-open"
    ANONYMOUS = "anonymous"
    INVALID = "invalid"  # a bearer was presented and is none of ours


_ADMIN_CLASS = frozenset({Kind.ADMIN, Kind.ORG, Kind.SESSION, Kind.DEV_OPEN})
_NOBODY = frozenset({Kind.ANONYMOUS, Kind.INVALID})


@dataclass(frozen=True)
class Principal:
    """The resolved caller. Handlers use this, never a header or a body field, to decide who is calling.

    `bucket` names the caller to the rate limits; empty for one that is known by its address only. `in_hatch`:
    the same request would have passed without its token.
    """

    kind: Kind
    actor: str
    workspace_id: UUID | None = None
    token_id: UUID | None = None
    generation: int | None = None
    org_id: UUID | None = None  # an org token's: what it is bound to
    bucket: str = ""
    in_hatch: bool = False
    is_authenticated = True  # what the REST framework asks of a user

    @property
    def is_admin_class(self) -> bool:
        """An operator's credential, or a request admitted by the hatch;
        never a token bound to a workspace.
        """
        return self.kind in _ADMIN_CLASS

    @property
    def is_nobody(self) -> bool:
        """No credential, or none of ours."""
        return self.kind in _NOBODY


ANONYMOUS = Principal(Kind.ANONYMOUS, "anonymous")
INVALID = Principal(Kind.INVALID, "invalid")
ADMIN = Principal(Kind.ADMIN, "admin-token", bucket="admin")
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


def resolve(authorization: str | None, address: str, cookie: str | None = None) -> Principal:
    """The caller of a request from `address`. Raises Unavailable when the database, or the control plane for
    a cookie, cannot be asked: never a 401.

    A bearer alone decides. Two of them outside the hatch are an invalid credential unless one of them is
    empty; inside it the first valid counts.
    """
    candidates = bearers(authorization)
    in_hatch = hatch_is_open() and is_local(address)
    if not candidates:
        return DEV_OPEN if in_hatch else _of_cookie(cookie)
    if len(candidates) > 1 and not in_hatch and len(set(candidates)) > 1:
        return INVALID
    for token in candidates:
        principal = _of_token(token)
        if principal is not None:
            return replace(principal, in_hatch=in_hatch)
    return INVALID


def _of_cookie(cookie: str | None) -> Principal:
    session = sessions.confirmed(cookie)
    if session is None:
        return ANONYMOUS
    return Principal(Kind.SESSION, f"session:{session.user_id}", bucket=f"session:{session.digest}")


def _of_token(token: str) -> Principal | None:
    if len(token) > MAX_TOKEN_CHARS:
        return None
    if settings.ADMIN_TOKEN and is_admin_token(token):
        return ADMIN
    digest = token_hash(token)
    if _is_junk(digest):
        return None
    try:
        principal = _of_workspace_token(digest) or _of_org_token(digest)
    except (DatabaseError, InterfaceError):
        raise datastore_unavailable() from None
    if principal is None:
        _remember_junk(digest)
    return principal


def _of_workspace_token(digest: bytes) -> Principal | None:
    """A statement by hand: every poll of every agent asks this,
    and the ORM took longer over it than all the rest of the poll.
    """
    with connection.cursor() as cursor:
        cursor.execute(_WORKSPACE_TOKEN, [digest])
        row = cursor.fetchone()
    if row is None:
        return None
    workspace_id, token_id, generation, last_used_at = row
    touch(token_id, last_used_at)
    return of_workspace(workspace_id, token_id, generation)


def _of_org_token(digest: bytes) -> Principal | None:
    row = OrgApiToken.objects.live(timezone.now()).filter(token_hash=digest).first()
    if row is None:
        return None
    touch(row.pk, row.last_used_at, OrgApiToken)
    return Principal(
        Kind.ORG, f"org-token:{row.prefix}", token_id=row.pk, org_id=row.org_id, bucket=f"org:{row.pk}"
    )


def of_workspace(workspace_id: UUID, token_id: UUID, generation: int | None) -> Principal:
    return Principal(
        Kind.WORKSPACE,
        f"workspace:{workspace_id}",
        workspace_id,
        token_id,
        generation,
        bucket=workspace_bucket(token_id),
    )


def workspace_bucket(token_id: UUID) -> str:
    return f"ws:{token_id}"


def is_admin_token(token: str) -> bool:
    """Constant time over digests of fixed length."""
    return hmac.compare_digest(
        hashlib.sha256(token.encode()).digest(), hashlib.sha256(settings.ADMIN_TOKEN.encode()).digest()
    )


def touch(
    token_id: UUID,
    last_used_at: datetime | None,
    model: type[WorkspaceAuthToken] | type[OrgApiToken] = WorkspaceAuthToken,
) -> None:
    """Stamp the token's use, at most once a minute: an update per request would be write amplification.

    A stamp that cannot be written refuses nobody.
    """
    now = timezone.now()
    if last_used_at is not None and last_used_at > now - USED_WINDOW:
        return
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - USED_WINDOW)
    try:
        model._default_manager.filter(stale, pk=token_id).update(last_used_at=now)
    except (DatabaseError, InterfaceError) as error:
        log.warning("token.not_stamped", token_id=str(token_id), error=str(error))


def check_claimed_caller(principal: Principal, claimed: str | None) -> None:
    """`X-Workspace-ID` is a claim: it must be the token's own workspace. Raises Forbidden."""
    if not claimed:
        return
    if claimed.lower().startswith(RESERVED_CALLERS):
        raise Forbidden("invalid caller ID")
    if principal.kind == Kind.WORKSPACE and claimed.lower() != str(principal.workspace_id):
        raise Forbidden("caller identity mismatch")


# --- Bearers that are none of ours
# ---------------------------------------------------------------------------------------------------
# Remembered for seconds, so that a client that repeats one costs no statement. A valid token is never
# remembered: it must be dead the moment it is revoked.


def _is_junk(digest: bytes) -> bool:
    return _junk.get(digest, 0.0) > time.monotonic()


def _remember_junk(digest: bytes) -> None:
    with _lock:
        if len(_junk) >= MAX_JUNK:
            now = time.monotonic()
            for expired in [one for one, until in _junk.items() if until <= now]:
                del _junk[expired]
        if len(_junk) < MAX_JUNK:
            _junk[digest] = time.monotonic() + JUNK_S


def forget_junk() -> None:
    """Tests begin without it."""
    with _lock:
        _junk.clear()


_junk: dict[bytes, float] = {}
_lock = threading.Lock()
