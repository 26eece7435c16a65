"""Purge: what a removed subtree left in the database goes too, in one transaction or not at all.

Rows that point to a workspace by a foreign key go with it, whatever room they belong to; a test walks all
tables and asks for a reason for each that is kept. Source: docs/reference/workspaces.md, Delete.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from django.db import transaction

from config.errors import Internal, NotFound, failing_as
from config.locks import lock_in_transaction
from workspaces import hooks
from workspaces.cache import forget
from workspaces.models import Workspace
from workspaces.selectors import removed_subtree
from workspaces.services.crud import TREE_LOCK

log = structlog.get_logger(__name__)


def release_storage(root_id: UUID) -> None:
    """What removals of this subtree have kept is owed to the teardown now: a purge leaves nothing."""
    kept = Workspace.objects.filter(pk__in=removed_subtree(root_id), storage_kept=True)
    kept.update(storage_kept=False, cleanup_pending=True)


def purge_workspaces(root_id: UUID) -> int:
    """Delete a removed workspace, its removed descendants and all that hangs on them; returns how many
    workspaces.

    Raises NotFound; Internal while the compute of one of them is not confirmed gone, because its row is the
    only pointer to it.
    """
    with failing_as("purge failed"), transaction.atomic():
        lock_in_transaction(TREE_LOCK)
        ids = removed_subtree(root_id)
        rows = list(Workspace.objects.select_for_update().filter(pk__in=ids).order_by("pk"))
        if not rows:
            raise NotFound("workspace not found")
        owing = sum(row.cleanup_pending for row in rows)
        if owing:
            raise stops_failed(removed=len(rows), failures=owing)
        others = Workspace.objects.exclude(pk__in=ids)
        others.filter(parent_id__in=ids).update(parent_id=None)
        others.filter(forwarded_to_id__in=ids).update(forwarded_to_id=None)
        Workspace.objects.filter(pk__in=ids).delete()
        for hook in hooks.purged:
            hook(ids)
        transaction.on_commit(lambda: forget(*ids), robust=True)
    log.info("workspaces.purged", root_id=str(root_id), count=len(ids))
    return len(ids)


def stops_failed(*, removed: int, failures: int) -> Internal:
    """The answer to a delete whose compute is not all gone: the rows are removed, the stops are owed."""
    text = f"workspace marked removed, but {failures} stop call(s) failed — please retry"
    return Internal(text, removed_count=removed, stop_failures=failures)
