"""Starts that took too long."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from provisioning import ledger, progress
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import ProvisionRun, RunState, WorkspaceLifecycle
from provisioning.services.boot_failures import TEXT_BYTES, clean, end_of
from provisioning.services.last_words import last_words
from provisioning.services.sweeps.rows import BATCH, each
from workspaces.defaults import provision_timeout_s
from workspaces.models import Status, Workspace, WorkspaceQuerySet
from workspaces.services import transitions

RECENT_START = timedelta(hours=1)


def time_out_starts(now: datetime) -> int:
    """Starts past their deadline fail, with what is known about how far they came.

    One that no worker has begun is spared while others of the deployment still start: waiting is not being
    stuck.
    """
    overdue = (
        Workspace.objects.filter(status=Status.PROVISIONING).filter(_overdue(now)).order_by("pk")[:BATCH]
    )
    rows = list(overdue)
    if not rows:
        return 0
    starting = ProvisionRun.objects.starts().filter(started_at__gt=now - RECENT_START).exists()
    return each(rows, lambda row: _time_out(row, now, others_start=starting), within_s=25)


def _overdue(now: datetime) -> Q:
    # Without a deadline (a row of an older release) the age counts, with the longest timeout there is.
    longest = now - timedelta(seconds=max(1800, provision_timeout_s("")))
    return Q(provision_deadline_at__lt=now) | Q(provision_deadline_at=None, status_changed_at__lt=longest)


def _time_out(row: Workspace, now: datetime, *, others_start: bool) -> bool:
    run = ProvisionRun.objects.starts().filter(workspace_id=row.pk, generation=row.generation).first()
    is_waiting = run is None or (run.state == RunState.QUEUED and run.attempts == 0)
    if is_waiting and others_start and (run or _waits_for_cycle(row)):
        return False
    seconds = provision_timeout_s(row.runtime)
    detail = ""
    if is_waiting:
        message = "no worker picked the start up in time; check that the server's workers are running"
    elif run and run.state == RunState.STARTED:
        detail = end_of(clean(last_words(row.pk)), TEXT_BYTES)
        message = (
            f"the workspace started, but its agent did not register within {seconds} s; "
            "look at its log and at its network path to this server"
        )
    else:
        steps = [step for step in run.steps if step["name"] != progress.QUEUED] if run else []
        slowest = max(steps, key=lambda step: step["duration_ms"], default=None)
        hint = f" (slowest step: {slowest['name']})" if slowest else ""
        message = f"the workspace's compute did not start within {seconds} s{hint}"
    fenced = Workspace.objects.at(row.pk, row.generation).filter(_overdue(now))
    error = BackendError(ErrorClass.TIMEOUT, message, detail=detail)
    return _fail(fenced, row, error, source="provision_timeout_sweep",
                 timeout_secs=seconds, runtime=row.runtime)  # fmt: skip


def _waits_for_cycle(row: Workspace) -> bool:
    """An accepted restart has no run until its cycle begins."""
    return WorkspaceLifecycle.objects.filter(pk=row.pk, restart_pending=True).exists()


def _fail(fenced: WorkspaceQuerySet, row: Workspace, error: BackendError, **shown: Any) -> bool:
    """Row and run fail together; a worker that still holds the run finds its lease gone."""
    with transaction.atomic():
        if not transitions.mark_failed(fenced, error.safe_message, **shown):
            return False
        runs = ProvisionRun.objects.starts().filter(workspace_id=row.pk, generation=row.generation)
        ledger.fail_run(runs, error)
    return True
