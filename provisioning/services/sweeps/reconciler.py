"""Machines at a provider: rows whose machine is gone, machines that their row has lost, removed rows that
still point to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.base import Compute
from provisioning.services.sweeps.health import lose_gone
from provisioning.services.sweeps.reaping import owe_teardown
from provisioning.services.sweeps.rows import BATCH, acted, each, independently
from provisioning.verdicts import is_live
from workspaces.models import PARKED, Status, Workspace
from workspaces.services import transitions

JOB = Job.COMPUTE_RECONCILER


def reconcile(now: datetime) -> int:
    """Make rows agree with the provider's list. Returns rows changed."""
    computes = dispatch.list_managed()
    return independently(
        lambda: lose_gone(computes, sweep=JOB), lambda: _adopt_lost(computes), _forget_removed
    )


def _adopt_lost(computes: Sequence[Compute]) -> int:
    """A machine of the row's generation whose id could not be stored when it was started."""
    live = {(one.workspace_id, one.generation): one for one in computes if is_live(one)}
    lacking = Workspace.objects.managed().filter(
        pk__in={workspace_id for workspace_id, _ in live}, instance_id=None
    )
    rows = lacking.exclude(status__in=PARKED).only("generation").order_by("pk")
    lost = [live[row.pk, row.generation] for row in rows if (row.pk, row.generation) in live]
    return each(lost[:BATCH], _adopt)


def _adopt(compute: Compute) -> bool:
    if not transitions.adopt_machine(
        compute.workspace_id, compute.generation, compute.compute_id, url=compute.url
    ):
        return False
    return acted(JOB, compute.workspace_id, "adopted", compute_id=compute.compute_id)


def _forget_removed() -> int:
    pointing = Workspace.objects.filter(
        status=Status.REMOVED, instance_id__isnull=False, cleanup_pending=False
    )
    return each(
        pointing.order_by("pk")[:BATCH],
        lambda row: owe_teardown(row.pk) and acted(JOB, row.pk, "teardown"),
    )
