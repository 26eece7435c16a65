"""The lock of verbs that write beside a workspace's row: who removes the workspace waits, or was first."""

from __future__ import annotations

from uuid import UUID

from config.errors import NotFound
from workspaces.models import Workspace


def lock_live(workspace_id: UUID) -> None:
    """Lock the live row until the transaction ends. Raises NotFound for an unknown or removed one."""
    if not lock_live_ones(workspace_id):
        raise NotFound("workspace not found")


def lock_live_ones(*workspace_ids: UUID) -> set[UUID]:
    """Lock those that are live, in one order: two verbs that lock the same two must not deadlock."""
    rows = Workspace.objects.live().filter(pk__in=workspace_ids).order_by("pk")
    return set(rows.select_for_update(no_key=True).values_list("pk", flat=True))
