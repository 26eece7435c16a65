"""What is left of a removed workspace: its compute, then its storage. Tried at once, owed until it is done.

Source: docs/reference/provisioning.md, Teardown.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

import structlog
from django.db import transaction

from config.evt import evt
from provisioning import dispatch, ledger
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.leases import kept_lease, lifecycle_turn
from provisioning.models import ProvisionRun, RunKind, WorkspaceLifecycle
from provisioning.services.execution import stop_with_retry
from provisioning.services.stops import Outcome, stop_all
from workspaces.models import Status, Workspace

log = structlog.get_logger(__name__)

BUDGET_S = 30.0
FIRST_RETRY_S, LAST_RETRY_S = 5, 600


def teardown(workspace_ids: Iterable[UUID], *, budget_s: float = BUDGET_S) -> int:
    """Clean up removed workspaces that owe it (`cleanup_pending`); return how many stops were refused.

    What was refused, or is not acknowledged within `budget_s`, is queued and tried again without end."""
    owing = {row.pk: row for row in _owing(workspace_ids)}
    failures = 0
    for workspace_id, outcome in stop_all(
        ((one, None) for one in owing), budget_s=budget_s, then=lambda one: _erase(owing[one])
    ):
        if outcome is Outcome.STOPPED:
            _confirm(owing[workspace_id])
            continue
        failures += outcome is Outcome.FAILED
        delay = timedelta(seconds=FIRST_RETRY_S)
        ledger.queue_teardown(
            workspace_id, owing[workspace_id].generation, backend=dispatch.label(), delay=delay
        )
    return failures


def teardown_run(run_id: UUID) -> None:
    """One try of a cleanup that is owed; there is no last one."""
    workspace_id = (
        ProvisionRun.objects.filter(pk=run_id, kind=RunKind.TEARDOWN)
        .values_list("workspace_id", flat=True)
        .first()
    )
    if workspace_id is None:
        return
    with lifecycle_turn(workspace_id) as mine:
        run = ledger.claim_run(run_id) if mine else None
        if run is None:
            return
        with kept_lease(run):
            _try(run)


def _try(run: ProvisionRun) -> None:
    try:
        for row in _owing([run.workspace_id]):
            stop_with_retry(row.pk, below_generation=None)
            _erase(row)
            _confirm(row)
        ledger.end_teardown(run)
    except Exception as error:
        wait_s = min(FIRST_RETRY_S * 2 ** min(run.attempts, 10), LAST_RETRY_S)
        log.warning(
            "teardown.failed",
            workspace_id=str(run.workspace_id),
            attempt=run.attempts,
            retry_in_s=wait_s,
            error=getattr(error, "detail", "") or str(error),
        )
        known = error if isinstance(error, BackendError) else None
        shown = known or BackendError(
            ErrorClass.INTERNAL, "the workspace could not be cleaned up", detail=repr(error)
        )
        ledger.hand_back(run, error=shown, wait_s=wait_s)


def _owing(workspace_ids: Iterable[UUID]) -> list[Workspace]:
    rows = Workspace.objects.filter(pk__in=list(workspace_ids), status=Status.REMOVED, cleanup_pending=True)
    return list(rows.only("pk", "generation", "storage_kept"))


def _erase(row: Workspace) -> None:
    if not row.storage_kept:
        dispatch.remove_storage(row.pk)


def _confirm(row: Workspace) -> None:
    """The compute is gone: the row no longer has to point to it. Not if a purge has released the storage
    meanwhile: it is owed again.
    """
    with transaction.atomic():
        rows = Workspace.objects.filter(pk=row.pk, status=Status.REMOVED, storage_kept=row.storage_kept)
        if not rows.update(instance_id=None, cleanup_pending=False):
            return
        WorkspaceLifecycle.objects.filter(pk=row.pk).delete()
        ledger.cancel_runs(row.pk, up_to=None)
    evt("stop.ok", {"workspace_id": str(row.pk), "source": "teardown", "backend": dispatch.label()})
