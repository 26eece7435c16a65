"""Verbs over credentials and secrets: mint, revoke, store, read. Source: docs/reference/access.md."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from access.ciphers import CannotUnseal, seal, unseal
from access.models import GlobalSecret, TokenKind, WorkspaceAuthToken, WorkspaceSecret

log = structlog.get_logger(__name__)
TOKEN_BYTES = 32


class SecretUnreadable(Exception):
    """A stored secret cannot be decrypted; `scope` is `global` or `workspace`."""

    def __init__(self, scope: str, key: str) -> None:
        super().__init__(f"{scope} secret {key}")
        self.scope = scope
        self.key = key


def token_hash(plaintext: str) -> bytes:
    return hashlib.sha256(plaintext.encode()).digest()


def new_secret() -> str:
    """32 random bytes as unpadded base64url: 43 characters."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def mint_token(*, workspace_id: UUID, kind: TokenKind, generation: int | None = None) -> str:
    """Issue a bearer for one workspace and return its plain text, the only time it exists in readable
    form.
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


def revoke_tokens(
    *, workspace_id: UUID, kind: TokenKind | None = None, below_generation: int | None = None
) -> int:
    """Revoke the live tokens of a workspace (of one kind, of older generations); return how many.

    With `below_generation`, an instance token that carries no generation counts as older.
    """
    rows = WorkspaceAuthToken.objects.live().filter(workspace_id=workspace_id)
    if kind is not None:
        rows = rows.filter(kind=kind)
    if below_generation is not None:
        rows = rows.filter(Q(generation__lt=below_generation) | Q(generation=None))
    return rows.update(revoked_at=Now())


def has_live_instance_token(workspace_id: UUID, generation: int | None = None) -> bool:
    """Whether a runtime of the workspace (of this generation) holds a live token."""
    rows = WorkspaceAuthToken.objects.live().filter(workspace_id=workspace_id, kind=TokenKind.INSTANCE)
    if generation is not None:
        rows = rows.filter(generation=generation)
    return rows.exists()


def ever_had_a_token(workspace_id: UUID) -> bool:
    """Whether any token, live or revoked, was issued: revoking the last one must not reopen a workspace."""
    return WorkspaceAuthToken.objects.filter(workspace_id=workspace_id).exists()


@transaction.atomic
def store_secrets(*, workspace_id: UUID, values: Mapping[str, str]) -> None:
    """Upsert secrets of one workspace, all or none."""
    rows = []
    for key, value in values.items():
        sealed, version = seal(value)
        rows.append(
            WorkspaceSecret(
                workspace_id=workspace_id, key=key, encrypted_value=sealed, encryption_version=version
            )
        )
    WorkspaceSecret.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["workspace", "key"],
        update_fields=["encrypted_value", "encryption_version"],
    )


def secret_environment(workspace_id: UUID) -> dict[str, str]:
    """Every secret a workspace receives: the global ones overlaid by its own. Raises SecretUnreadable: all
    or nothing.
    """
    environment: dict[str, str] = {}
    for shared in GlobalSecret.objects.order_by("key"):
        environment[shared.key] = _plain("global", shared)
    for own in WorkspaceSecret.objects.filter(workspace_id=workspace_id).order_by("key"):
        environment[own.key] = _plain("workspace", own)
    return environment


def _plain(scope: str, row: GlobalSecret | WorkspaceSecret) -> str:
    try:
        return unseal(bytes(row.encrypted_value), row.encryption_version)
    except CannotUnseal as error:
        log.error("secret.unreadable", scope=scope, key=row.key, cause=str(error))
        raise SecretUnreadable(scope, row.key) from error
