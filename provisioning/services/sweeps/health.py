"""Compute that ended, keeps ending or has moved although its row says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db.models import Exists, OuterRef, Q

from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.base import Compute, ComputeState
from provisioning.models import ProvisionRun, RunState
from provisioning.services.boot_failures import report_boot_failure
from provisioning.services.last_words import last_words
from provisioning.services.restarts import Trigger, request_restart
from provisioning.services.sweeps.liveness import lose_external
from provisioning.services.sweeps.rows import BATCH, acted, each
from provisioning.verdicts import is_live
from workspaces.models import ALIVE, Status, UrlSource, Workspace
from workspaces.services import transitions

ENDED = "the workspace ended before its agent registered; look at its log, then restart it"
KEEPS_ENDING = "the workspace keeps ending before its agent registers; look at its log, then restart it"
TOO_MANY_RESTARTS = 3  # by the engine, of one start


def check_health(now: datetime) -> int:
    """External agents that fell silent; where compute is asked every few seconds, what became of it.

    Returns rows changed.
    """
    changed = lose_external(now)
    if not dispatch.has_provisioner() or dispatch.rents_machines():
        return changed
    rows = list(_expected())
    if not rows:
        return changed
    computes = dispatch.list_managed()
    return changed + _lose(rows, computes, Job.HEALTH_SWEEP) + _judge(rows, computes)


def lose_gone(computes: Sequence[Compute], *, sweep: Job) -> int:
    """Rows that expect compute and are not in the list."""
    return _lose(list(_expected()), computes, sweep)


def _expected() -> Iterable[Workspace]:
    """Rows that say they run, and starts whose compute was started."""
    booting = ProvisionRun.objects.filter(
        workspace_id=OuterRef("pk"), generation=OuterRef("generation"), state=RunState.STARTED
    )
    return (
        Workspace.objects.managed()
        .filter(Q(status__in=ALIVE) | Q(Exists(booting), status=Status.PROVISIONING))
        .only("status", "generation", "instance_id", "url", "url_source")
        .order_by("pk")
    )


def _lose(rows: Sequence[Workspace], computes: Sequence[Compute], sweep: Job) -> int:
    present = {one.workspace_id for one in computes if is_live(one)}
    missing = [row for row in rows if row.pk not in present]
    return each(missing[:BATCH], lambda row: _lose_compute(row, sweep))


def _lose_compute(row: Workspace, sweep: Job) -> bool:
    """Ask once more for this one: the list may be older than the row."""
    if dispatch.status(row.pk) != ComputeState.NOT_RUNNING:
        return False
    if row.status == Status.PROVISIONING:
        return _fail_boot(row, ENDED)
    unchanged = Workspace.objects.at(row.pk, row.generation).filter(instance_id=row.instance_id)
    if not transitions.mark_lost(unchanged):
        return False
    request_restart(row.pk, Trigger.REACTIVE, "health")
    return acted(sweep, row.pk, "offline")


def _judge(rows: Sequence[Workspace], computes: Sequence[Compute]) -> int:
    """What runs, but not as its row believes: at another address, or again and again."""
    now_at = {(one.workspace_id, one.generation): one for one in computes if is_live(one)}
    pairs = [(row, now_at.get((row.pk, row.generation))) for row in rows]
    moved = [(row, one.url) for row, one in pairs if one and one.url and _has_moved(row, one.url)]
    looping = [
        row
        for row, one in pairs
        if one and row.status == Status.PROVISIONING and one.restarts >= TOO_MANY_RESTARTS
    ]
    return each(moved[:BATCH], _repair) + each(looping[:BATCH], lambda row: _fail_boot(row, KEEPS_ENDING))


def _has_moved(row: Workspace, url: str) -> bool:
    return row.url_source == UrlSource.PLATFORM and row.url != url


def _repair(moved: tuple[Workspace, str]) -> bool:
    row, url = moved
    if not transitions.move_address(row.pk, row.generation, before=row.url, url=url):
        return False
    return acted(Job.HEALTH_SWEEP, row.pk, "url_repaired")


def _fail_boot(row: Workspace, reason: str) -> bool:
    words = last_words(row.pk)
    if not report_boot_failure(workspace_id=row.pk, error=reason, log_tail=words, generation=row.generation):
        return False
    return acted(Job.HEALTH_SWEEP, row.pk, "boot_failed")
