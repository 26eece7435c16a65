"""Who registers or beats: the row and its credential, read together in one statement.

Existence and removal are decided before the credential. Source: docs/reference/registry.md, Who may call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from access.credentials import bearers, hatch_is_open, touch
from access.services import ever_had_a_token, has_live_instance_token, token_hash
from config.errors import Gone, NotFound, Unauthorized, datastore_unavailable
from workspaces.models import Status, Workspace

REMOVED_HINT = "Regenerate workspace + token from the canvas → Tokens tab"

_READ = """
SELECT w.status, w.generation, w.runtime, w.platform_inbound_secret, w.agent_card IS NULL,
       w.provision_deadline_at, t.id, t.generation, t.last_used_at
FROM workspaces w LEFT JOIN workspace_auth_tokens t
     ON t.workspace_id = w.id AND t.token_hash = ANY(%s) AND t.revoked_at IS NULL
WHERE w.id = %s
"""


@dataclass(frozen=True)
class Registrant:
    """A live workspace and the token its caller proved itself with; no `token_id` for a first,
    tokenless contact.
    """

    workspace_id: UUID
    status: str
    generation: int
    runtime: str
    sealed_secret: str | None
    lacks_card: bool
    token_id: UUID | None
    token_generation: int | None


def new_registrant(row: Workspace) -> Registrant:
    """An operator's caller, for a row that this very request creates."""
    return Registrant(row.pk, row.status, row.generation, row.runtime, None, False, None, None)


@contextmanager
def deciding_access() -> Iterator[None]:
    """A database error inside the block means "cannot tell", and is answered as that: 503, never a 401."""
    try:
        yield
    except (DatabaseError, InterfaceError):
        raise datastore_unavailable() from None


def find(workspace_id: UUID) -> Workspace | None:
    """The row, removed or not. Raises Unavailable."""
    with deciding_access():
        return Workspace.objects.filter(pk=workspace_id).first()


def identify(
    workspace_id: UUID,
    authorization: str | None,
    *,
    removed_is_unauthorized: bool = False,
    registering: bool = False,
) -> Registrant:
    """The calling workspace.

    Raises NotFound (unknown), Gone or Unauthorized (removed; a beating runtime reacts to 401 only),
    Unauthorized (bad or missing token) and Unavailable when the database cannot be asked. A presented token
    that is none any more is judged like no token: it may have been revoked by the start that this caller
    belongs to.
    """
    tokens = bearers(authorization)
    with deciding_access():
        found = _read(workspace_id, tokens if _is_clear(tokens) else [])
        if found is None:
            raise NotFound("workspace not found")
        registrant, deadline, last_used_at = found
        if registrant.status == Status.REMOVED:
            raise _removed(workspace_id, removed_is_unauthorized)
        if registrant.token_id is not None:
            touch(registrant.token_id, last_used_at)
            return registrant
        if _may_come_without_token(registrant, registering=registering, deadline=deadline):
            return registrant
    raise Unauthorized("invalid workspace auth token" if tokens else "missing workspace auth token")


def _is_clear(tokens: list[str]) -> bool:
    """Two different bearers name nobody, except inside the hatch, where the first valid one counts."""
    return len(set(tokens)) <= 1 or hatch_is_open()


def _read(
    workspace_id: UUID, tokens: list[str]
) -> tuple[Registrant, datetime | None, datetime | None] | None:
    with connection.cursor() as cursor:
        cursor.execute(_READ, [[token_hash(token) for token in tokens], workspace_id])
        row = cursor.fetchone()
    if row is None:
        return None
    status, generation, runtime, secret, lacks_card, deadline, token_id, token_generation, last_used_at = row
    registrant = Registrant(
        workspace_id, status, generation, runtime, secret, lacks_card, token_id, token_generation
    )
    return registrant, deadline, last_used_at


def _may_come_without_token(registrant: Registrant, *, registering: bool, deadline: datetime | None) -> bool:
    """Only a workspace that never had a token, or a fresh instance that fetches its first one while it is
    being started.
    """
    if not ever_had_a_token(registrant.workspace_id):
        return True
    if not registering or registrant.status != Status.PROVISIONING:
        return False
    in_time = deadline is None or deadline > timezone.now()
    return in_time and not has_live_instance_token(registrant.workspace_id)


def _removed(workspace_id: UUID, as_unauthorized: bool) -> Gone | Unauthorized:
    if as_unauthorized:
        return Unauthorized(
            "workspace removed", code="workspace_removed", id=str(workspace_id), hint=REMOVED_HINT
        )
    return Gone("workspace removed", id=str(workspace_id), hint=REMOVED_HINT)
