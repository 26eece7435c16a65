"""`manage.py lifecycle_unstick <workspace id>`: who holds a start; what a dead worker holds is cleared."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from provisioning.leases import lifecycle_holder
from provisioning.ledger import free_dead_lease, held_runs, ring_for_waiting
from provisioning.models import ProvisionRun


class Command(BaseCommand):
    help = (
        "Shows who works on a workspace's starts and stops. A run whose worker has died is put back into the "
        "queue; one whose worker lives is left alone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("workspace_id", type=UUID)

    def handle(self, *args: Any, workspace_id: UUID, **options: Any) -> None:
        runs = held_runs(workspace_id)
        for run in runs:
            self.stdout.write(_described(run))
        if holder := lifecycle_holder(workspace_id):
            raise CommandError(
                f"refused: it is being started or stopped by {holder}; end that process first if it hangs"
            )
        kept = [run for run in runs if not free_dead_lease(run)]
        if kept:
            raise CommandError("refused: the worker lives; its lease ends by itself 30 s after its death")
        ring_for_waiting(workspace_id)
        freed = f"{len(runs)} put back into the queue." if runs else "Nobody holds a start of this workspace."
        self.stdout.write(freed)


def _described(run: ProvisionRun) -> str:
    left = (run.lease_expires_at - timezone.now()).total_seconds() if run.lease_expires_at else 0.0
    lease = f"lease ends in {left:.0f} s" if left > 0 else f"lease ended {-left:.0f} s ago"
    return f"run {run.pk}: {run.kind} of generation {run.generation}, held by {run.lease_owner}, {lease}"
