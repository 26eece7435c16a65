"""Work whose message or worker was lost."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from config.states import update_returning
from provisioning import dispatch, ledger
from provisioning.models import IMPORT, ProvisionRun, RunKind, WorkspaceLifecycle
from provisioning.services.sweeps.rows import BATCH, each
from workspaces.models import Status, Workspace

# An accepted start gets its run in the next statement, unless its process died.
ORPHANED_CLAIM = timedelta(seconds=30)


def requeue(now: datetime) -> int:
    """Ring again for whatever has lost its message or its worker; give a run to a start that has none."""
    rung = _ring_due()
    waiting = WorkspaceLifecycle.objects.filter(restart_pending=True, pending_since__lt=now - ORPHANED_CLAIM)
    rung += each(waiting.order_by("pending_since")[:BATCH], _ring_restart)
    any_run = ProvisionRun.objects.starts().filter(
        workspace_id=OuterRef("pk"), generation=OuterRef("generation")
    )
    pending = WorkspaceLifecycle.objects.filter(pk=OuterRef("pk"), restart_pending=True)
    orphans = Workspace.objects.managed().filter(
        ~Exists(any_run),
        ~Exists(pending),
        status=Status.PROVISIONING,
        status_changed_at__lt=now - ORPHANED_CLAIM,
    )
    return rung + each(
        orphans.order_by("pk")[:BATCH],
        _start,
    )


def _start(row: Workspace) -> bool:
    """The first start of an imported row stays one of its import's: a tree whose process died does not start
    all at once.
    """
    if row.import_key is not None and row.generation == 1:
        return dispatch.provision_async(row, trigger=IMPORT)
    return dispatch.provision_async(row, kind=RunKind.AUTO_RESTART, trigger="requeue")


def _ring_due() -> int:
    """Due runs, each at most once a minute: a backlog must not grow the queue with every tick."""
    due = ProvisionRun.objects.claimable().filter(due_at__lt=Now())
    oldest = due.order_by("due_at").values("pk")[:BATCH]
    runs = update_returning(due.filter(pk__in=oldest), due_at=Now() + ledger.RING_AGAIN)
    for run in runs:
        ledger.ring(run)
    return len(runs)


def _ring_restart(waiting: WorkspaceLifecycle) -> bool:
    ledger.ring_for_waiting(waiting.pk)
    return True
