"""What removed workspaces and booted machines still owe, and history that nobody needs."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from provisioning import dispatch, ledger
from provisioning.models import OPEN, BootBundle, ProvisionRun, RunKind
from provisioning.services.boot_bundles import CONSUMED
from provisioning.services.sweeps.rows import BATCH, PARKED_BATCH, each
from workspaces.models import Status, Workspace

RUN_RETENTION = timedelta(days=90)


def clean_up(now: datetime) -> int:
    """Every removed workspace that owes its teardown gets a run for it; old history goes."""
    open_teardown = ProvisionRun.objects.filter(
        workspace_id=OuterRef("pk"), kind=RunKind.TEARDOWN, state__in=sorted(OPEN)
    )
    owing = Workspace.objects.filter(~Exists(open_teardown), cleanup_pending=True, status=Status.REMOVED)
    queued = each(owing.order_by("pk")[:PARKED_BATCH], _queue_teardown)
    # The pointer to compute that is not confirmed gone stays, however old.
    unconfirmed = Workspace.objects.filter(pk=OuterRef("workspace_id")).filter(
        Q(cleanup_pending=True) | ~Q(status=Status.REMOVED)
    )
    old = ProvisionRun.objects.filter(
        ~Exists(unconfirmed) | Q(compute_id=None), finished_at__lt=now - RUN_RETENTION
    )
    if forgotten := list(old.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        ProvisionRun.objects.filter(pk__in=forgotten).delete()
    ended = BootBundle.objects.filter(expires_at__lte=Now()).order_by("expires_at")
    return queued + each(ended[:BATCH], _end_boot)


def _end_boot(bundle: BootBundle) -> bool:
    """A bundle that nobody fetches any more goes; one whose agent has called, once its backend knows."""
    if bundle.sealed == CONSUMED:
        dispatch.finish_boot(bundle.workspace_id)
    return bool(BootBundle.objects.filter(pk=bundle.pk, expires_at__lte=Now()).delete()[0])


def _queue_teardown(row: Workspace) -> bool:
    ledger.queue_teardown(row.pk, row.generation, backend=dispatch.label())
    return True
