"""Tokens of workspaces: mint, revoke, ask. Source: docs/reference/access.md, Tokens."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from access.models import TokenKind, WorkspaceAuthToken
from config.errors import NotFound, TooManyRequests

log = structlog.get_logger(__name__)
TOKEN_BYTES = 32
MAX_LIVE_TOKENS = 50  # per workspace, judged when a person mints one


def token_hash(plaintext: str) -> bytes:
    return hashlib.sha256(plaintext.encode()).digest()


def new_secret() -> str:
    """32 random bytes as unpadded base64url: 43 characters."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def mint_token(*, workspace_id: UUID, kind: TokenKind, generation: int | None = None) -> str:
    """Issue a bearer for one workspace and return its plain text,
    the only time it exists in readable form.
    """
    plaintext = new_secret()
    row = WorkspaceAuthToken.objects.create(
        workspace_id=workspace_id,
        token_hash=token_hash(plaintext),
        prefix=plaintext[:8],
        kind=kind,
        generation=generation,
    )
    log.info("token.minted", workspace_id=str(workspace_id), kind=kind, prefix=row.prefix)
    return plaintext


@transaction.atomic
def mint_api_token(*, workspace_id: UUID) -> str:
    """A token for a person or a script. Raises NotFound, and TooManyRequests at the cap.

    The workspace's row is locked first: of two requests for the last place one waits and is refused.
    """
    lock_workspace(workspace_id)
    if WorkspaceAuthToken.objects.live().filter(workspace_id=workspace_id).count() >= MAX_LIVE_TOKENS:
        raise TooManyRequests(f"maximum {MAX_LIVE_TOKENS} active tokens per workspace")
    return mint_token(workspace_id=workspace_id, kind=TokenKind.API)


def revoke_token(*, workspace_id: UUID, token_id: UUID) -> None:
    """Raises NotFound: unknown, another workspace's, or revoked before."""
    rows = WorkspaceAuthToken.objects.live().filter(pk=token_id, workspace_id=workspace_id)
    if not rows.update(revoked_at=Now()):
        raise NotFound("token not found or already revoked")
    log.info("token.revoked", workspace_id=str(workspace_id), token_id=str(token_id))


def revoke_tokens(
    *,
    workspace_id: UUID,
    kind: TokenKind | None = None,
    below_generation: int | None = None,
    unused_since: datetime | None = None,
) -> int:
    """Revoke the live tokens of a workspace (of one kind, of older generations, unused since).

    Returns how many.

    With `below_generation`, an instance token that carries no generation counts as older.
    """
    rows = WorkspaceAuthToken.objects.live().filter(workspace_id=workspace_id)
    if kind is not None:
        rows = rows.filter(kind=kind)
    if below_generation is not None:
        rows = rows.filter(Q(generation__lt=below_generation) | Q(generation=None))
    if unused_since is not None:
        rows = rows.unused(unused_since)
    return rows.update(revoked_at=Now())


def holders_of_unused_tokens(kind: TokenKind, unused_since: datetime) -> QuerySet[WorkspaceAuthToken, UUID]:
    """Ids of workspaces with a live token that nobody has used, or minted, since."""
    rows = WorkspaceAuthToken.objects.live().filter(kind=kind).unused(unused_since)
    return rows.values_list("workspace_id", flat=True)


def has_live_instance_token(workspace_id: UUID, generation: int | None = None) -> bool:
    """Whether a runtime of the workspace (of this generation) holds a live token."""
    rows = WorkspaceAuthToken.objects.live().filter(workspace_id=workspace_id, kind=TokenKind.INSTANCE)
    if generation is not None:
        rows = rows.filter(generation=generation)
    return rows.exists()


def ever_had_a_token(workspace_id: UUID) -> bool:
    """Whether any token, live or revoked, was issued: revoking the last one must not reopen a workspace."""
    return WorkspaceAuthToken.objects.filter(workspace_id=workspace_id).exists()


def lock_workspace(workspace_id: UUID) -> None:
    """Lock the live row until the transaction ends, without keeping others from referring to it.

    Raises NotFound for an unknown or removed one. The table is a higher room's; only its row is locked.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM workspaces WHERE id = %s AND status <> 'removed' FOR NO KEY UPDATE", [workspace_id]
        )
        if cursor.fetchone() is None:
            raise NotFound("workspace not found")
