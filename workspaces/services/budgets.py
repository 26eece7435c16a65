"""The verb over a workspace's budget. Source: docs/reference/panels.md, Budget."""

from __future__ import annotations

from uuid import UUID

from django.db.models.functions import Now

from config.errors import NotFound, failing_as
from config.states import update_returning
from workspaces.models import Workspace


def set_budget(*, workspace_id: UUID, limit: int | None) -> Workspace:
    """Set the monthly limit in USD cents: 0 blocks everything, None lifts it. Raises NotFound."""
    with failing_as("update failed"):
        rows = Workspace.objects.live().filter(pk=workspace_id)
        changed = update_returning(rows, budget_limit=limit, updated_at=Now())
    if not changed:
        raise NotFound("workspace not found")
    return changed[0]
