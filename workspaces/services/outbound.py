"""When a workspace last spoke to another: one of the signs that it is not idle."""

from __future__ import annotations

from uuid import UUID

from django.db.models.functions import Now

from workspaces.models import Workspace


def note_outbound(workspace_id: UUID) -> None:
    """A call of this workspace was answered."""
    Workspace.objects.filter(pk=workspace_id).update(last_outbound_at=Now())
