"""Remove: a workspace and all below it become tombstones, in one transaction.

Source: docs/reference/workspaces.md, Delete.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from access.services import revoke_tokens
from activity.events import EventType, record
from config.errors import Conflict, NotFound, failing_as
from config.locks import lock_in_transaction
from workspaces import hooks
from workspaces.cache import forget
from workspaces.models import CanvasLayout, Status, Workspace
from workspaces.selectors import removed_subtree, subtree
from workspaces.services.agents import close_agents
from workspaces.services.crud import TREE_LOCK
from workspaces.services.moves import move


@dataclass(frozen=True)
class Removal:
    """The rows a delete took, parents before children; `cascade` excludes the target."""

    ids: list[UUID]

    @property
    def cascade(self) -> int:
        return len(self.ids) - 1


def remove_workspace(
    *,
    workspace_id: UUID,
    confirmed: bool,
    keeps_storage: bool = False,
    only: Set[UUID] | None = None,
) -> Removal:
    """Mark the whole subtree removed, revoke its tokens and announce it, in one transaction.

    The rows go first: a late heartbeat, register or restart then finds nothing to revive. Stopping compute
    is owed (`cleanup_pending`) until the teardown confirms it; with `keeps_storage` what is stored stays
    until a purge. Raises NotFound, or Conflict: naming the children when a parent is deleted without
    confirmation, or when the subtree holds another one than `only` these. A removed id takes nothing more.
    """
    with transaction.atomic():
        lock_in_transaction(TREE_LOCK)
        target = Workspace.objects.select_for_update().filter(pk=workspace_id).first()
        if target is None:
            raise NotFound("workspace not found")
        if target.status == Status.REMOVED:
            return Removal([workspace_id])
        with failing_as("failed to check children"):
            ids = _locked_subtree(workspace_id)
        if len(ids) > 1 and not confirmed:
            raise _unconfirmed(workspace_id)
        if only is not None and not set(ids) <= only:
            raise Conflict("another workspace has come below it")
        gone = move(
            Workspace.objects.filter(pk__in=ids),
            Status.REMOVED,
            trigger="delete",
            generation=F("generation") + 1,
            cleanup_pending=True,
            storage_kept=keeps_storage,
            updated_at=Now(),
        )
        taken = {one.row.pk for one in gone}
        ids = [one for one in ids if one in taken]
        CanvasLayout.objects.filter(pk__in=ids).delete()
        close_agents(ids)
        for one in ids:
            revoke_tokens(workspace_id=one)
        for one in reversed(ids):
            payload = {"cascade_deleted": len(ids) - 1} if one == workspace_id else {}
            record(EventType.WORKSPACE_REMOVED, one, payload)
        for hook in hooks.removed:
            hook(ids)
        transaction.on_commit(lambda: forget(*ids), robust=True)
    return Removal(ids)


def _locked_subtree(root_id: UUID) -> list[UUID]:
    """The live subtree, every member locked. Who creates a child locks its parent, so none can slip in."""
    locked: set[UUID] = set()
    while not locked.issuperset(ids := subtree(root_id)):
        rows = Workspace.objects.select_for_update().filter(pk__in=ids).order_by("pk")
        locked.update(rows.values_list("pk", flat=True))
    return ids


def _unconfirmed(workspace_id: UUID) -> Conflict:
    children = list(
        Workspace.objects.live()
        .filter(parent_id=workspace_id)
        .order_by("created_at", "pk")
        .values("id", "name")
    )
    text = f"workspace has {len(children)} child workspace(s); repeat with ?confirm=true to delete them too"
    return Conflict(
        text, status="confirmation_required", message=text, children=children, children_count=len(children)
    )


def owing_stop(workspace_id: UUID) -> list[UUID]:
    """The removed members of a subtree whose compute has not been confirmed gone."""
    owing = Workspace.objects.filter(pk__in=removed_subtree(workspace_id), cleanup_pending=True)
    return list(owing.values_list("pk", flat=True))
