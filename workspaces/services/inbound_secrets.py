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
from workspaces.models import Workspace

log = structlog.get_logger(__name__)


def belonging_to(workspace_id: UUID) -> str:
    """What the sealed text is bound to: copied into another row, it cannot be read."""
    return f"ws:{workspace_id}:platform_inbound_secret"


def inbound_secret(workspace_id: UUID) -> str:
    """The stored secret, created when missing; two callers get the same value.

    Raises Workspace.DoesNotExist.
    """
    stored = Workspace.objects.values_list("platform_inbound_secret", flat=True).get(pk=workspace_id)
    if stored:
        try:
            return unseal_text(stored, belonging_to(workspace_id))
        except CannotUnseal as error:  # sealed under a lost key: a new one heals with the next heartbeat
            log.error("inbound_secret.unreadable", workspace_id=str(workspace_id), cause=str(error))
            return rotate_inbound_secret(workspace_id)
    fresh = seal_text(new_secret(), belonging_to(workspace_id))
    missing = Q(platform_inbound_secret=None) | Q(platform_inbound_secret="")
    Workspace.objects.filter(missing, pk=workspace_id).update(platform_inbound_secret=fresh)
    stored = Workspace.objects.values_list("platform_inbound_secret", flat=True).get(pk=workspace_id)
    return unseal_text(stored or "", belonging_to(workspace_id))


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
