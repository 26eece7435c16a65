"""The ledger of start attempts: queue, claim, hand back, finish. The row with its lease is the work, a
message a hint.

Every write after slow work names the lease it was made under; none of these verbs calls a backend. Source:
docs/reference/provisioning.md, Runs.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Coalesce, Now

from activity.counters import count
from config.evt import evt
from config.jobs import Job, enqueue
from config.locks import lock_in_transaction
from config.states import update_returning
from provisioning import progress
from provisioning.backends.base import BackendError, Compute, ComputeState, ErrorClass, ImageInfo
from provisioning.models import (
    IMPORT,
    OPEN,
    RUNS,
    ProvisionRun,
    ProvisionRunQuerySet,
    RunKind,
    RunState,
    WorkspaceLifecycle,
)
from workspaces.models import ALIVE, Workspace

LEASE = timedelta(seconds=30)
FIRST_RING = timedelta(seconds=20)  # the message sent with the row has had its chance by then
RING_AGAIN = timedelta(seconds=60)
MAX_ATTEMPTS = 5
CAPACITY_ATTEMPTS, CAPACITY_WAIT_S = 3, 30.0  # room comes back later than a network does, or not at all
IMPORT_SLOTS = "import-slots"
NEXT_SLOT = timedelta(seconds=5)
DETAIL_CHARS = 8192
RETRY_FIRST_S, RETRY_LIMIT_S = 2, 60
RECORDED = 3  # starts whose compute a stop looks at by id


def queue_run(
    workspace: Workspace,
    kind: RunKind,
    *,
    backend: str,
    trigger: str = "",
    options: Mapping[str, Any] | None = None,
    requested_by: str = "",
) -> ProvisionRun:
    """The run of the workspace's current generation, and a ring for it on commit.

    One per generation, whoever asks.
    """
    wanted = ProvisionRun(
        workspace_id=workspace.pk,
        generation=workspace.generation,
        kind=kind,
        backend=backend,
        trigger=trigger,
        options=dict(options or {}),
        requested_by=requested_by,
        due_at=Now() + FIRST_RING,
    )
    progress.begin(wanted, progress.QUEUED)
    ProvisionRun.objects.bulk_create([wanted], ignore_conflicts=True)
    run = ProvisionRun.objects.starts().get(workspace_id=workspace.pk, generation=workspace.generation)
    ring(run)
    return run


def queue_teardown(
    workspace_id: UUID, generation: int, *, backend: str, delay: timedelta = timedelta(0)
) -> None:
    """Owe a removed workspace its cleanup; at most one such run is open per workspace."""
    owed = ProvisionRun(
        workspace_id=workspace_id,
        generation=generation,
        kind=RunKind.TEARDOWN,
        backend=backend,
        due_at=Now() + delay,
    )
    ProvisionRun.objects.bulk_create([owed], ignore_conflicts=True)


def ring(run: ProvisionRun) -> None:
    job = Job.PROVISION_IMPORTED if run.trigger == IMPORT else Job.PROVISION
    enqueue(Job.TEARDOWN if run.kind == RunKind.TEARDOWN else job, run_id=run.pk)


def ring_for_waiting(workspace_id: UUID) -> None:
    """Ring for what found the workspace's lifecycle lock taken. Called by whoever has just released it.

    A loser has committed its row before it tried the lock, so either it got the lock or we see its row."""
    if WorkspaceLifecycle.objects.filter(pk=workspace_id, restart_pending=True).exists():
        enqueue(Job.RESTART_CYCLE, workspace_id=workspace_id)
    for run in ProvisionRun.objects.filter(
        workspace_id=workspace_id, state=RunState.QUEUED, attempts=0
    ).order_by("-generation")[:2]:
        ring(run)


@transaction.atomic
def has_slot(run_id: UUID) -> bool:
    """Whether the run may be claimed now: of an import's starts only so many are in flight, over all workers.

    A start holds its slot from its claim until the backend's start has returned. Called in the transaction of
    the claim, it is still true there; one without a slot is due again in a moment.
    """
    limit = settings.MOLECULE_PROVISION_CONCURRENCY
    if not limit or not ProvisionRun.objects.imported().filter(pk=run_id).exists():
        return True
    lock_in_transaction(IMPORT_SLOTS)
    if ProvisionRun.objects.imported().in_flight().exclude(pk=run_id).count() < limit:
        return True
    ProvisionRun.objects.filter(pk=run_id, state=RunState.QUEUED).update(due_at=Now() + NEXT_SLOT)
    return False


def ring_for_slots() -> None:
    """An import's start has ended: ring for those that have waited longest, one for each free slot."""
    limit = settings.MOLECULE_PROVISION_CONCURRENCY
    free = limit - ProvisionRun.objects.imported().in_flight().count()
    waiting = ProvisionRun.objects.imported().filter(state=RunState.QUEUED, attempts=0)
    for run in waiting.order_by("queued_at", "pk")[: max(0, free)]:
        ring(run)


@transaction.atomic
def claim_run(run_id: UUID) -> ProvisionRun | None:
    """Take the run under a lease. None: somebody works on it, it is over, or it has to wait for a slot;
    a doubled message ends here.
    """
    if not has_slot(run_id):
        return None
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    claimed = _move(
        ProvisionRun.objects.filter(pk=run_id).claimable(),
        RunState.RUNNING,
        lease_owner=owner,
        lease_expires_at=Now() + LEASE,
        attempts=F("attempts") + 1,
        started_at=Coalesce(F("started_at"), Now()),
    )
    for run in claimed:
        progress.claimed(run)
        return run
    return None


def renew_lease(run: ProvisionRun) -> bool:
    """False: the run was taken over or ended by somebody else."""
    return bool(ProvisionRun.objects.leased_by(run).update(lease_expires_at=Now() + LEASE))


def hand_back(run: ProvisionRun, *, error: BackendError | None = None, wait_s: float | None = None) -> bool:
    """Put a run of ours back into the queue: for its next try after `error`, or at once for another worker.

    Unless `wait_s` is given, the waits double and are spread, so that many runs do not come back together."""
    changes: dict[str, Any] = {"attempts": F("attempts") - 1, "due_at": Now()}
    if error:
        wait_s = wait_s or _spread(min(RETRY_FIRST_S * 2 ** (run.attempts - 1), RETRY_LIMIT_S))
        changes = {"due_at": Now() + timedelta(seconds=wait_s), **_error(error)}
    return bool(
        _move(
            ProvisionRun.objects.leased_by(run),
            RunState.QUEUED,
            lease_owner=None,
            lease_expires_at=None,
            **changes,
        )
    )


def tries_after(error: BackendError) -> tuple[int, float | None]:
    """How many tries a start has whose last one ended with a passing `error`, and the seconds to the next
    (None: doubling).
    """
    if error.error_class == ErrorClass.CAPACITY:
        return CAPACITY_ATTEMPTS, CAPACITY_WAIT_S
    return MAX_ATTEMPTS, None


def _spread(limit_s: float) -> float:
    return random.uniform(0, limit_s)  # noqa: S311  (jitter)


def held_runs(workspace_id: UUID) -> list[ProvisionRun]:
    """Runs of the workspace that a worker holds, or held when it died, oldest first."""
    rows = ProvisionRun.objects.filter(workspace_id=workspace_id, state=RunState.RUNNING)
    return list(rows.order_by("queued_at"))


@transaction.atomic
def free_dead_lease(run: ProvisionRun) -> bool:
    """Put a run whose worker has died back into the queue, and ring. False: it lives, or was taken over."""
    freed = _move(
        ProvisionRun.objects.leased_by(run).filter(lease_expires_at__lt=Now()),
        RunState.QUEUED,
        lease_owner=None,
        lease_expires_at=None,
        due_at=Now(),
    )
    for one in freed:
        ring(one)
    return bool(freed)


@transaction.atomic
def note_steps(run: ProvisionRun) -> None:
    """Store the steps of the worker that holds `run`; what its machine told meanwhile stays."""
    stored = ProvisionRun.objects.leased_by(run).select_for_update(of=("self",)).first()
    if stored:
        run.steps = progress.joined(run.steps, stored.steps)
        ProvisionRun.objects.filter(pk=run.pk).update(steps=run.steps)


@transaction.atomic
def note_phase(workspace_id: UUID, generation: int, phase: str, message: str) -> None:
    """Store, and tell, how far the machine of a start has come."""
    runs = ProvisionRun.objects.starts().filter(workspace_id=workspace_id, generation=generation)
    run = runs.select_for_update(of=("self",)).first()
    if run:
        progress.machine_told(run, phase, message)
        ProvisionRun.objects.filter(pk=run.pk).update(steps=run.steps)


def note_image(run: ProvisionRun, image: ImageInfo) -> None:
    ProvisionRun.objects.leased_by(run).update(image=image.reference, image_digest=image.digest)


def note_compute(run: ProvisionRun, compute_id: str) -> None:
    """What was started is never forgotten: the one write without a fence."""
    ProvisionRun.objects.filter(pk=run.pk).update(compute_id=compute_id)


def recorded_compute(workspace_id: UUID) -> list[Compute]:
    """What the newest starts of a workspace are known to have made, newest first: ids that a provider's own
    list may not show yet. `started_at` is when the start ended.
    """
    rows = ProvisionRun.objects.starts().filter(workspace_id=workspace_id, compute_id__isnull=False)
    return [
        Compute(workspace_id, str(run.compute_id), run.generation, ComputeState.UNKNOWN, _ended(run))
        for run in rows.order_by("-generation")[:RECORDED]
    ]


def _ended(run: ProvisionRun) -> datetime | None:
    return run.finished_at or run.started_at


def mark_run_started(run: ProvisionRun, status: str) -> None:
    """Compute runs.

    `status` is the workspace's, read under its lock: the agent may have been quicker than we.
    """
    target = RunState.SUCCEEDED if status in ALIVE else RunState.STARTED
    _close(ProvisionRun.objects.leased_by(run), target)


def finish_run(workspace_id: UUID, generation: int) -> None:
    """The agent of this generation has come online. A run that is still RUNNING is finished by its worker."""
    rows = ProvisionRun.objects.starts().filter(workspace_id=workspace_id, generation=generation)
    _close(rows.filter(state__in=[RunState.STARTED, RunState.FAILED]), RunState.SUCCEEDED)


def fail_run(rows: ProvisionRunQuerySet, error: BackendError) -> list[ProvisionRun]:
    return _close(rows, RunState.FAILED, **_error(error))


def cancel_runs(workspace_id: UUID, *, up_to: int | None) -> None:
    """The workspace is parked or gone: nobody waits for its starts up to this generation (None: any).

    A RUNNING one finds out by itself.
    """
    rows = ProvisionRun.objects.starts().filter(workspace_id=workspace_id)
    _close(rows if up_to is None else rows.filter(generation__lte=up_to), RunState.CANCELLED)


def end_teardown(run: ProvisionRun) -> None:
    _close(ProvisionRun.objects.leased_by(run), RunState.SUCCEEDED)


def supersede_run(run: ProvisionRun) -> None:
    _close(ProvisionRun.objects.leased_by(run), RunState.SUPERSEDED)


def _error(error: BackendError) -> dict[str, Any]:
    return {
        "error_class": error.error_class,
        "error_safe": error.safe_message,
        "error_detail": error.detail[:DETAIL_CHARS],
    }


_NO_ERROR = {"error_class": None, "error_safe": None, "error_detail": None}


def _close(rows: ProvisionRunQuerySet, target: RunState, **changes: Any) -> list[ProvisionRun]:
    """End the claim of a run (`started` included: nobody works on it any more),
    counting and logging the outcome.
    """
    if target in {RunState.STARTED, RunState.SUCCEEDED}:
        changes |= _NO_ERROR  # that of an earlier try
    with transaction.atomic():
        closed = _move(
            rows,
            target,
            lease_owner=None,
            lease_expires_at=None,
            finished_at=Coalesce(F("finished_at"), Now()),
            **changes,
        )
        for run in closed:
            _close_steps(run, target)
            if target == RunState.STARTED:
                continue
            if target == RunState.SUCCEEDED:
                _ring_for_context(run)
            count(
                "molecule_provision_runs_total",
                backend=run.backend,
                kind=run.kind,
                result=target.value,
                error_class=run.error_class or "",
            )
            name = None if run.kind == RunKind.TEARDOWN else _LOGGED.get(target)
            if name:
                fields = {
                    "workspace_id": str(run.workspace_id),
                    "run_id": str(run.pk),
                    "generation": run.generation,
                    "kind": run.kind,
                    "error_class": run.error_class or "",
                }
                transaction.on_commit(
                    lambda name=name, fields=fields: evt(name, fields),  # type: ignore[misc]
                    robust=True,
                )
        return closed


def _close_steps(run: ProvisionRun, target: RunState) -> None:
    """What the outcome says of the steps: compute that runs boots, an agent that registered has booted."""
    if run.kind == RunKind.TEARDOWN:
        return
    if target == RunState.STARTED:
        progress.begin(run, progress.BOOT)
    elif target == RunState.SUCCEEDED:
        if not any(step["name"] == progress.BOOT for step in run.steps):
            progress.begin(run, progress.BOOT)
        progress.end(run, progress.OK)
        progress.begin(run, progress.REGISTER)
        progress.end(run, progress.OK)
    else:
        progress.end(run, progress.FAILED, run.error_safe or target.value)
    ProvisionRun.objects.filter(pk=run.pk).update(steps=run.steps)


def _ring_for_context(run: ProvisionRun) -> None:
    """The agent is back: tell it of the restart, if there was one."""
    if WorkspaceLifecycle.objects.with_context().filter(pk=run.workspace_id).exists():
        enqueue(Job.DELIVER_RESTART_CONTEXT, workspace_id=run.workspace_id)


_LOGGED = {
    RunState.SUCCEEDED: "provision.ok",
    RunState.FAILED: "provision.failed",
    RunState.SUPERSEDED: "provision.superseded",
}


def _move(rows: ProvisionRunQuerySet, target: RunState, **changes: Any) -> list[ProvisionRun]:
    return update_returning(rows.filter(state__in=RUNS.sources[target]), state=target, **changes)


def has_open_run(workspace_id: UUID) -> bool:
    return ProvisionRun.objects.starts().filter(workspace_id=workspace_id, state__in=OPEN).exists()
