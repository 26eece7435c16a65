"""After a new key: every inbound secret is sealed under it, so that the old key can be taken away."""

from __future__ import annotations

from uuid import UUID

import structlog

from access.ciphers import CannotUnseal, is_newest, seal_text, unseal_text
from workspaces.models import Workspace
from workspaces.services.inbound_secrets import belonging_to

log = structlog.get_logger(__name__)
BATCH = 200


def reseal_inbound_secrets() -> int:
    """Returns how many were sealed anew; a second run changes nothing.

    One that cannot be read is left: the next heartbeat of its workspace replaces it.
    """
    done, after = 0, UUID(int=0)
    while True:
        rows = Workspace.objects.filter(pk__gt=after).exclude(platform_inbound_secret=None).order_by("pk")
        batch = list(rows.values_list("pk", "platform_inbound_secret")[:BATCH])
        for workspace_id, stored in batch:
            done += _reseal(workspace_id, stored or "")
        if len(batch) < BATCH:
            return done
        after = batch[-1][0]


def _reseal(workspace_id: UUID, stored: str) -> int:
    """Compare and set: one that was rotated meanwhile is new already."""
    if not stored or is_newest(stored):
        return 0
    try:
        text = unseal_text(stored, belonging_to(workspace_id))
    except CannotUnseal as error:
        log.error("inbound_secret.unreadable", workspace_id=str(workspace_id), cause=str(error))
        return 0
    here = Workspace.objects.filter(pk=workspace_id, platform_inbound_secret=stored)
    return here.update(platform_inbound_secret=seal_text(text, belonging_to(workspace_id)))
