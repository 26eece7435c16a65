"""The secret the server presents to a workspace.

Readable by us, hence sealed at rest; never in a row serializer.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError
from django.db.models import Q

from access.ciphers import CannotUnseal, seal_text, unseal_text
from access.services import new_secret
from config.errors import Unavailable
from workspaces.models import Workspace

log = structlog.get_logger(__name__)

SECRET_RETRY_S = 30


def belonging_to(workspace_id: UUID) -> str:
    """What the sealed text is bound to: copied into another row, it cannot be read."""
    return f"ws:{workspace_id}:platform_inbound_secret"


def inbound_secret(workspace_id: UUID) -> str:
    """The stored secret, created when missing; two callers get the same value.

    Raises Workspace.DoesNotExist.
    """
    return _held(workspace_id)[0]


def known_inbound_secret(workspace_id: UUID) -> str:
    """The secret for a call into the agent, which knows it.

    One that had to be made reaches the agent with its next heartbeat: Unavailable until then, or when none
    can be had.
    """
    try:
        secret, is_new = _held(workspace_id)
    except (DatabaseError, InterfaceError, CannotUnseal, Workspace.DoesNotExist) as error:
        log.error("inbound_secret.not_to_be_had", workspace_id=str(workspace_id), error=str(error))
        raise Unavailable(
            "the server has no credential for this workspace's agent",
            detail="reprovision the workspace to give it a new inbound secret",
        ) from None
    if is_new:
        raise credential_on_its_way("the agent receives its inbound secret with its next heartbeat")
    return secret


def credential_on_its_way(detail: str) -> Unavailable:
    """The agent and the server do not hold the same secret yet; the next heartbeat mends that."""
    return Unavailable(
        f"the workspace's agent is being given a new credential; retry in {SECRET_RETRY_S} seconds",
        headers={"Retry-After": str(SECRET_RETRY_S)},
        detail=detail,
        retry_after_seconds=SECRET_RETRY_S,
    )


def _held(workspace_id: UUID) -> tuple[str, bool]:
    """The secret, and whether the agent cannot know it yet."""
    stored = Workspace.objects.values_list("platform_inbound_secret", flat=True).get(pk=workspace_id)
    if stored:
        try:
            return unseal_text(stored, belonging_to(workspace_id)), False
        except CannotUnseal as error:  # sealed under a lost key: a new one heals with the next heartbeat
            log.error("inbound_secret.unreadable", workspace_id=str(workspace_id), cause=str(error))
            return rotate_inbound_secret(workspace_id), True
    fresh = seal_text(new_secret(), belonging_to(workspace_id))
    missing = Q(platform_inbound_secret=None) | Q(platform_inbound_secret="")
    Workspace.objects.filter(missing, pk=workspace_id).update(platform_inbound_secret=fresh)
    stored = Workspace.objects.values_list("platform_inbound_secret", flat=True).get(pk=workspace_id)
    return unseal_text(stored or "", belonging_to(workspace_id)), True


def deliverable_secret(workspace_id: UUID) -> str | None:
    """The secret for an answer to the agent; None when it cannot be had now: the next answer heals it."""
    try:
        return inbound_secret(workspace_id)
    except (DatabaseError, InterfaceError, Workspace.DoesNotExist) as error:
        log.warning("inbound_secret.not_delivered", workspace_id=str(workspace_id), error=str(error))
        return None


def rotate_inbound_secret(workspace_id: UUID) -> str:
    """Replace the secret and return the new one. Raises Workspace.DoesNotExist."""
    fresh = new_secret()
    sealed = seal_text(fresh, belonging_to(workspace_id))
    if not Workspace.objects.filter(pk=workspace_id).update(platform_inbound_secret=sealed):
        raise Workspace.DoesNotExist(str(workspace_id))
    return fresh
