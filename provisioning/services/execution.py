"""One run, from its claim to its end: prepare, image, stop the old compute, mint, start, store.

The worker may die at any line. Its lease expires, another claims the same run of the same generation, and the
backend adopts what already runs. Source: docs/reference/provisioning.md, A start step by step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F
from django.db.models.functions import Coalesce, Greatest
from django.utils import timezone

from config.evt import evt
from provisioning import dispatch, ledger, progress
from provisioning.backends.base import BackendError, ComputeState, ErrorClass, Started
from provisioning.leases import ToldToStop, drop_connection, kept_lease, lifecycle_turn, stoppable
from provisioning.models import IMPORT, STOPS_FIRST, ProvisionRun, WorkspaceLifecycle
from provisioning.preparation import mint_secrets, prepare
from provisioning.required_env import check_required_env
from provisioning.services import restart_contexts
from provisioning.services.boot_bundles import boot_token
from workspaces.defaults import provision_timeout_s
from workspaces.models import ALIVE, PARKED, Status, Workspace
from workspaces.services import transitions

log = structlog.get_logger(__name__)
T = TypeVar("T")

STALE_IMAGE = "image_stale: a newer image could not be fetched, so the copy at hand is used"
INTERNAL_ERROR = "internal error while provisioning"
STOP_PAUSES_S = (1.0, 2.0)  # between the tries of a stop
PERSIST_PAUSES_S = (0.1, 0.2, 0.4)
SERVING = ALIVE | {Status.OFFLINE}  # what a declined restart may return to


class Superseded(Exception):
    """A newer generation or a parking owns the workspace."""


class LeaseLost(Exception):
    """Another worker took the run over, or a sweep ended it: what was started is theirs now."""


def provision(run_id: UUID) -> None:
    """Do the work of one queued run, unless somebody does or has done it."""
    found = ProvisionRun.objects.filter(pk=run_id).values_list("workspace_id", flat=True).first()
    if found is None or not ledger.has_slot(run_id):
        return
    with lifecycle_turn(found) as mine:
        if mine and (run := ledger.claim_run(run_id)):
            execute_run(run)


def execute_run(run: ProvisionRun) -> None:
    """Bring a claimed run to its end; the caller holds the workspace's lifecycle lock.

    Raises nothing for what may go wrong with a start: that ends in the ledger. Raises ToldToStop after
    handing back.
    """
    log.info("run.entered", run_id=str(run.pk), workspace_id=str(run.workspace_id), kind=run.kind,
             generation=run.generation, attempt=run.attempts)  # fmt: skip
    try:
        with kept_lease(run), stoppable():
            _work(run)
    except ToldToStop:
        drop_connection()  # the signal may have come in the middle of a statement
        ledger.hand_back(run)
        log.info("run.handed_back", run_id=str(run.pk))
        raise
    if run.trigger == IMPORT:
        ledger.ring_for_slots()
    state = ProvisionRun.objects.values_list("state", flat=True).filter(pk=run.pk).first()
    log.info("run.left", run_id=str(run.pk), state=state)


def _work(run: ProvisionRun) -> None:
    try:
        _start(run)
    except Superseded:
        _give_way(run)
    except LeaseLost:
        log.info("run.lease_lost", run_id=str(run.pk))
    except BackendError as error:
        _settle(run, error)
    except (OperationalError, InterfaceError) as error:
        drop_connection()
        text = "the server's database was not reachable while provisioning"
        _settle(run, BackendError(ErrorClass.TRANSIENT, text, detail=str(error), retryable=True))
    except Exception as error:
        log.exception("run.crashed", run_id=str(run.pk), workspace_id=str(run.workspace_id))
        _settle(run, BackendError(ErrorClass.INTERNAL, INTERNAL_ERROR, detail=repr(error)))


def _start(run: ProvisionRun) -> None:
    workspace = _owned(run)
    if all(
        step["name"] == progress.QUEUED for step in run.steps
    ):  # later tries must fit into the time of the first that began
        timeout = timedelta(seconds=provision_timeout_s(workspace.runtime))
        transitions.start_clock(run.workspace_id, run.generation, timeout)
        restart_contexts.start_clock(run.workspace_id, timeout)
    with _step(run, "prepare"):
        spec = prepare(workspace, run)
        check_required_env(spec)
    try:
        with _step(run, "image") as notes:
            image = dispatch.ensure_image(spec)
            if image.is_stale:
                notes.append(STALE_IMAGE)
        ledger.note_image(run, image)
    except BackendError as error:
        if _decline(run, error):
            return
        raise
    _owned(run)
    is_clear = True
    if run.kind in STOPS_FIRST:
        with _step(run, "stop_old"):
            is_clear = _stop_old(run)
        _owned(run)
    with _step(run, "create"):
        secrets = mint_secrets(run.workspace_id, run.generation)
        complete = replace(spec, image=image.reference, files={**spec.files, **secrets})
        if dispatch.offers("boot_bundle"):
            complete = replace(complete, boot_token=boot_token(complete))
        started = dispatch.start(complete)
    _persist(lambda: ledger.note_compute(run, started.compute_id), started)
    if started.left_behind and is_clear:
        _leave_behind(run, "an older machine would not stop")
    if started.adopted:
        evt("provision.adopted", {"workspace_id": str(run.workspace_id), "compute_id": started.compute_id})
    _store(run, started, image.digest)


def _owned(run: ProvisionRun) -> Workspace:
    """The workspace as it is now. Raises LeaseLost or Superseded when the run may not go on."""
    if not ledger.renew_lease(run):
        raise LeaseLost
    found = Workspace.objects.at(run.workspace_id, run.generation).exclude(status__in=PARKED).first()
    if found is None:
        raise Superseded
    return found


def _stop_old(run: ProvisionRun) -> bool:
    """Stop what older generations left running; False when it would not go.

    A restart must bring the workspace back, so a failing stop is owed.
    """
    is_clear = True
    evt("restart.pre_stop", {"workspace_id": str(run.workspace_id), "backend": dispatch.label()})
    try:
        stop_with_retry(run.workspace_id, below_generation=run.generation)
    except BackendError as error:
        evt("restart.stop_exhausted", {"workspace_id": str(run.workspace_id), "backend": dispatch.label()})
        _leave_behind(run, error.detail or error.safe_message, attempts=len(STOP_PAUSES_S) + 1)
        is_clear = False
    transitions.clear_address(run.workspace_id, run.generation)
    return is_clear


def _leave_behind(run: ProvisionRun, error: str, *, attempts: int = 1) -> None:
    """Go on beside compute of an older generation; its stop is owed from now on."""
    source = f"{'restart' if run.kind in STOPS_FIRST else 'start'}:{run.trigger or run.kind}"
    log.warning("LEAK-SUSPECT", workspace_id=str(run.workspace_id), source=source,
                attempts=attempts, last_err=error)  # fmt: skip
    owe_stop(run.workspace_id, run.generation)


def stop_with_retry(workspace_id: UUID, *, below_generation: int | None) -> None:
    """Three tries, 1 s and 2 s apart. Raises the last BackendError."""
    for pause_s in (*STOP_PAUSES_S, None):
        try:
            dispatch.stop(workspace_id, below_generation=below_generation)
            return
        except BackendError:
            if pause_s is None:
                raise
            time.sleep(pause_s)


def owe_stop(workspace_id: UUID, below_generation: int) -> None:
    """Remember that compute of lower generations is to be stopped; the parked-compute sweep does it.

    A higher bound that is owed already stays.
    """
    WorkspaceLifecycle.objects.bulk_create(
        [WorkspaceLifecycle(workspace_id=workspace_id)], ignore_conflicts=True
    )
    WorkspaceLifecycle.objects.filter(pk=workspace_id).update(
        stop_below_generation=Greatest(Coalesce(F("stop_below_generation"), 0), below_generation),
        stop_attempts=0,
    )


def _store(run: ProvisionRun, started: Started, image_digest: str | None) -> None:
    """Publish the address and close the run in one transaction. Raises Superseded."""

    def write() -> Workspace | None:
        with transaction.atomic():
            workspace = transitions.mark_started(
                run.workspace_id,
                run.generation,
                url=started.url,
                internal_url=started.internal_url,
                instance_id=started.instance_id,
                image_digest=image_digest,
            )
            if workspace:
                ledger.mark_run_started(run, workspace.status)
            return workspace

    if _persist(write, started) is None:
        raise Superseded


def _persist(write: Callable[[], T], started: Started) -> T:
    """Retry a write that would otherwise leave compute unknown.

    Raises BackendError(PERSIST), never stops the compute.
    """
    for pause_s in (*PERSIST_PAUSES_S, None):
        try:
            return write()
        except (OperationalError, InterfaceError) as error:
            drop_connection()
            if pause_s is None:
                raise BackendError(
                    ErrorClass.PERSIST,
                    "the started workspace could not be recorded",
                    detail=f"{started.compute_id}: {error}",
                    retryable=True,
                    instance_id=started.compute_id,
                ) from error
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def _give_way(run: ProvisionRun) -> None:
    """Stop what this run may have started, and nothing newer."""
    try:
        dispatch.stop(run.workspace_id, below_generation=run.generation + 1)
    except BackendError as error:
        log.warning("LEAK-SUSPECT", workspace_id=str(run.workspace_id), source="superseded", attempts=1,
                    last_err=error.detail or error.safe_message)  # fmt: skip
        if Workspace.objects.filter(pk=run.workspace_id).exists():
            owe_stop(run.workspace_id, run.generation + 1)
    ledger.supersede_run(run)


def _decline(run: ProvisionRun, error: BackendError) -> bool:
    """Call a restart off whose image cannot be had while the old compute still serves:
    nothing was stopped yet.
    """
    prior = run.options.get("prior_status")
    if run.kind not in STOPS_FIRST or prior not in SERVING:
        return False
    if dispatch.status(run.workspace_id) != ComputeState.RUNNING:
        return False
    reason = "image_prewarm_declined"
    with transaction.atomic():
        row = transitions.decline_restart(
            run.workspace_id, run.generation, prior=Status(prior), error=error.safe_message, reason=reason
        )
        if row is None:
            raise Superseded
        restart_contexts.drop_context(run.workspace_id)
        ledger.fail_run(ProvisionRun.objects.leased_by(run), error)
    evt("restart.declined", {"workspace_id": str(run.workspace_id), "reason": reason})
    return True


def _settle(run: ProvisionRun, error: BackendError) -> None:
    """Another try later, or the end: run and workspace failed in one transaction."""
    log.warning("run.error", run_id=str(run.pk), workspace_id=str(run.workspace_id),
                error_class=error.error_class, error=error.safe_message, detail=error.detail)  # fmt: skip
    tries, wait_s = ledger.tries_after(error)
    if error.retryable and run.attempts < tries and _has_time(run):
        ledger.hand_back(run, error=error, wait_s=wait_s)
        return
    with transaction.atomic():
        rows = Workspace.objects.at(run.workspace_id, run.generation)
        rows.select_for_update().first()  # the row before its run, as everybody locks them
        if ledger.fail_run(ProvisionRun.objects.leased_by(run), error):
            transitions.mark_failed(rows, error.safe_message, **error.extra)


def _has_time(run: ProvisionRun) -> bool:
    rows = Workspace.objects.at(run.workspace_id, run.generation)
    return rows.filter(provision_deadline_at__gt=timezone.now()).exists()


@contextmanager
def _step(run: ProvisionRun, name: str) -> Iterator[list[str]]:
    """Keep the step and its time in the run, so that a reload shows how far the start has come.

    Yields what is to be said of it in the end.
    """
    progress.begin(run, name)
    ledger.note_steps(run)
    status, notes = progress.FAILED, list[str]()
    try:
        yield notes
        status = progress.OK
    except BackendError as error:
        notes.append(error.safe_message)
        raise
    finally:
        progress.end(run, status, "; ".join(notes))
        ledger.note_steps(run)
