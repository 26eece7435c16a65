"""Rows as the comparison with compute needs them."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db.models import Max, Q

from provisioning.models import ProvisionRun, RunState
from provisioning.verdicts import Standing
from workspaces.models import ALIVE, EXTERNAL, Workspace


def standings(
    workspace_ids: Iterable[UUID], *, with_alive: bool = False, with_runs: bool = True
) -> dict[UUID, Standing]:
    """The rows of these workspaces (`with_alive`: and of all that say they run), in at most two queries."""
    wanted = Q(pk__in=set(workspace_ids))
    if with_alive:
        wanted |= Q(status__in=ALIVE)
    rows = Workspace.objects.filter(wanted).order_by("pk")
    facts = rows.values_list(
        "pk", "name", "status", "runtime", "generation", "cleanup_pending", "instance_id"
    )
    found = list(facts)
    started = started_generations(fact[0] for fact in found) if with_runs else {}
    return {
        pk: Standing(
            pk, name, status, runtime, generation, runtime != EXTERNAL, is_owed, started.get(pk), instance_id
        )
        for pk, name, status, runtime, generation, is_owed, instance_id in found
    }


def started_generations(workspace_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Highest generation of each workspace whose compute was started."""
    runs = ProvisionRun.objects.starts().filter(
        workspace_id__in=set(workspace_ids), state__in=[RunState.STARTED, RunState.SUCCEEDED]
    )
    return dict(runs.values_list("workspace_id").annotate(Max("generation")))


def recorded(workspace_ids: Iterable[UUID]) -> set[UUID]:
    """Those that this database has ever started: the ledger outlives a purged row."""
    wanted = set(workspace_ids)
    if not wanted:
        return set()
    runs = ProvisionRun.objects.filter(workspace_id__in=wanted)
    return set(runs.values_list("workspace_id", flat=True).distinct())
