"""Machines that say on their console that they could not start their agent."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Exists, OuterRef

from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.base import FileError
from provisioning.models import ProvisionRun, RunState
from provisioning.services.boot_failures import report_boot_failure
from provisioning.services.sweeps.rows import BATCH, acted, each
from workspaces.models import Status, Workspace

CRASHED = "RUNTIME CRASHED"
REASON = "the agent crashed while the workspace's machine booted; look at its log, then restart it"


def watch_boots(now: datetime) -> int:
    """Starts whose machine runs and whose agent has not called: those that crashed fail at once."""
    started = ProvisionRun.objects.filter(
        workspace_id=OuterRef("pk"), generation=OuterRef("generation"), state=RunState.STARTED
    )
    booting = Workspace.objects.managed().filter(Exists(started), status=Status.PROVISIONING)
    return each(booting.only("generation").order_by("status_changed_at")[:BATCH], _watch, within_s=25)


def _watch(row: Workspace) -> bool:
    try:
        printed = dispatch.console(row.pk)
    except FileError:
        return False  # nothing to read yet
    if CRASHED not in printed:
        return False
    if not report_boot_failure(
        workspace_id=row.pk, error=REASON, log_tail=printed, generation=row.generation
    ):
        return False
    return acted(Job.BOOTSTRAP_WATCHER, row.pk, "boot_failed")
