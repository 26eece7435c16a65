"""Compute that no row wants: stopped, unless there is so much of it that the rows are to be doubted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.utils import timezone

from config.evt import evt
from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.base import Compute
from provisioning.duties import keeps_containers
from provisioning.leases import lifecycle_turn
from provisioning.models import ComputeScan
from provisioning.selectors import standings
from provisioning.services.sweeps.rows import BATCH, acted, each
from provisioning.verdicts import Finding, Standing, Verdict, duplicates, is_refused, judged
from workspaces.models import Status, Workspace

log = structlog.get_logger(__name__)
REAP = "reap"
JOB = Job.EC2_ORPHAN_SWEEPER


def sweep_machines(now: datetime, *, is_ordered: bool = False, is_forced: bool = False) -> int:
    """Machines without a row, of removed rows, or older than the generation that was started last.

    `is_ordered`: by an operator, who overrules COMPUTE_REAP_MODE; `is_forced`: and the breaker.
    """
    findings = compare_compute(now)
    doomed = sum(one.is_doomed for one in findings)
    is_held = not is_forced and refuses(JOB, doomed, sum(one.compute is not None for one in findings))
    record_scan(JOB, findings, refused=doomed if is_held else 0)
    return 0 if is_held else reap(JOB, findings, is_ordered=is_ordered)


def compare_compute(now: datetime, *, with_missing: bool = False) -> list[Finding]:
    """All compute with what its rows say of it. Raises whatever kept the backend from telling."""
    computes = dispatch.list_managed()
    rows = standings((one.workspace_id for one in computes), with_alive=with_missing)
    return judged(computes, rows, now)


def refuses(sweep: Job, candidates: int, total: int, *, what: str = "compute") -> bool:
    """Whether a sweep must leave the candidates alone until an operator has looked."""
    if not is_refused(candidates, total):
        return False
    evt("sweep.refused", {"sweep": sweep, "candidates": candidates, "managed": total, "what": what})
    log.error("sweep.refused", sweep=sweep, candidates=candidates, managed=total, what=what,
              hint="see `manage.py compute_audit`; with --reap --force it acts on them")  # fmt: skip
    return True


def reap(sweep: Job, findings: Sequence[Finding], *, is_ordered: bool = False) -> int:
    """Stop what is doomed; `is_ordered`: by an operator, who overrules COMPUTE_REAP_MODE."""
    doomed = [one for one in findings if one.is_doomed]
    if settings.COMPUTE_REAP_MODE != REAP and not is_ordered:
        for one in doomed:
            evt("sweep.action", {**_facts(sweep, one), "action": "reported"})
        return 0
    return each(doomed[:BATCH], lambda one: _reap(sweep, one))


def _reap(sweep: Job, finding: Finding) -> bool:
    """Under the lock, and only if the rows still say so."""
    assert finding.compute is not None
    workspace_id = finding.workspace_id
    with lifecycle_turn(workspace_id) as mine:
        if not mine:
            return False
        rows = standings([workspace_id])
        known = rows.get(workspace_id)
        if _verdict_now(finding, finding.compute, rows) != finding.verdict:
            return False
        if finding.verdict == Verdict.DUPLICATE:
            dispatch.stop_compute(workspace_id, finding.compute.compute_id)
        elif known:
            return owe_teardown(workspace_id) and acted(**_facts(sweep, finding), action="teardown")
        else:
            dispatch.stop(workspace_id)
            if keeps_containers():
                dispatch.remove_storage(workspace_id)
    return acted(**_facts(sweep, finding), action="stopped")


def _verdict_now(finding: Finding, compute: Compute, rows: Mapping[UUID, Standing]) -> Verdict | None:
    """What it is by the rows as they are now. None: it is gone.

    A duplicate is judged beside what runs now: the other one of two may have ended.
    """
    listed = dispatch.list_managed() if finding.verdict == Verdict.DUPLICATE else [compute]
    computes = [one for one in listed if one.workspace_id == compute.workspace_id]
    found = judged(computes, rows, timezone.now())
    verdicts = {one.compute.compute_id: one.verdict for one in found if one.compute}
    return verdicts.get(compute.compute_id)


def owe_teardown(workspace_id: UUID) -> bool:
    """A removed workspace still has something: its teardown is due again. False: it is queued already."""
    rows = Workspace.objects.filter(pk=workspace_id, status=Status.REMOVED, cleanup_pending=False)
    return bool(rows.update(cleanup_pending=True))


def record_scan(sweep: Job, findings: Sequence[Finding], *, refused: int) -> None:
    """Keep what a complete comparison found: what the gauges show until the next one."""
    computes = [one.compute for one in findings if one.compute]
    found = {
        "orphans": sum(one.verdict == Verdict.ORPHAN for one in findings),
        "duplicates": duplicates(computes),
        "refused": refused,
    }
    now = timezone.now()
    if ComputeScan.objects.filter(pk=sweep).update(scanned_at=now, findings=found):
        return
    ComputeScan.objects.bulk_create(
        [ComputeScan(name=sweep, scanned_at=now, findings=found)],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["scanned_at", "findings"],
    )


def _facts(sweep: Job, finding: Finding) -> dict[str, Any]:
    return {
        "sweep": sweep,
        "workspace_id": str(finding.workspace_id),
        "verdict": finding.verdict,
        "compute_id": finding.compute.compute_id if finding.compute else "",
    }
