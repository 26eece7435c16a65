"""Org API tokens: mint and revoke, each with a record of who did it. Source: docs/reference/access.md."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from access.models import OrgApiToken, OrgTokenAction, OrgTokenAuditLog
from access.services.tokens import new_secret, token_hash
from config.errors import NotFound, TooManyRequests
from config.locks import lock_in_transaction

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who asks, for the record; `org_id` is what their own token is bound to."""

    actor: str
    org_id: UUID | None = None
    address: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True)
class MintedOrgToken:
    """The row, and the plain text, which exists only here."""

    row: OrgApiToken
    plaintext: str


@transaction.atomic
def mint_org_token(
    *, caller: Caller, name: str | None = None, expires_at: datetime | None = None
) -> MintedOrgToken:
    """Issue a token bound to what the caller is bound to. Raises TooManyRequests at the ceiling."""
    lock_in_transaction(f"org-tokens:{caller.org_id}")  # counting and inserting are one step
    ceiling = settings.ORG_TOKEN_MINT_CEILING
    live = OrgApiToken.objects.live(timezone.now()).filter(org_id=caller.org_id)
    if 0 < ceiling <= live.count():
        raise TooManyRequests(f"maximum {ceiling} active org tokens")
    plaintext = new_secret()
    row = OrgApiToken.objects.create(
        token_hash=token_hash(plaintext),
        prefix=plaintext[:8],
        name=name,
        created_by=caller.actor,
        org_id=caller.org_id,
        is_anchored=caller.org_id is not None,
        expires_at=expires_at,
        created_at=timezone.now(),
    )
    _record(OrgTokenAction.MINT, row, caller)
    return MintedOrgToken(row, plaintext)


@transaction.atomic
def revoke_org_token(*, token_id: UUID, caller: Caller) -> None:
    """Raises NotFound: unknown, revoked before, or another org's for a caller that is bound to one."""
    rows = OrgApiToken.objects.filter(pk=token_id, revoked_at=None)
    if caller.org_id is not None:
        rows = rows.filter(org_id=caller.org_id)
    row = rows.first()
    if row is None or not rows.update(revoked_at=Now()):
        raise NotFound("token not found or already revoked")
    _record(OrgTokenAction.REVOKE, row, caller)


def _record(action: OrgTokenAction, row: OrgApiToken, caller: Caller) -> None:
    OrgTokenAuditLog.objects.create(
        token=row,
        action=action,
        actor=caller.actor,
        org_id=row.org_id,
        ip_address=caller.address,
        user_agent=caller.user_agent,
        metadata={"prefix": row.prefix, **({"name": row.name} if row.name else {})},
    )
    log.info(f"org_token.{action}", prefix=row.prefix, actor=caller.actor)
