"""`manage.py compute_audit`: all compute with what the rows say of it; `--reap` stops what none wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from provisioning import dispatch
from provisioning.duties import keeps_containers
from provisioning.services import sweeps
from provisioning.verdicts import Finding

HELD = (
    "What is left is being worked on, could not be stopped (see the log), or was held back because it is so "
    "much: look whether this is the right database, then add --force."
)


class Command(BaseCommand):
    help = (
        "Shows all compute of this deployment and what would become of it. Nothing is changed without --reap."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reap", action="store_true", help="stop orphans and duplicates now")
        parser.add_argument("--force", action="store_true", help="with --reap: however many they are")

    def handle(self, *args: Any, reap: bool, force: bool, **options: Any) -> None:
        if force and not reap:
            raise CommandError("--force needs --reap: run without both first and look at what is shown")
        if not dispatch.has_provisioner():
            raise CommandError("this deployment has no backend: only external workspaces work")
        doomed = self._show()
        if not reap:
            self.stdout.write("Nothing was changed." + (" To stop these: add --reap" if doomed else ""))
            return
        sweep = sweeps.sweep_containers if keeps_containers() else sweeps.sweep_machines
        try:
            changed = sweep(timezone.now(), is_ordered=True, is_forced=force)
        except Exception as error:
            raise CommandError(f"not all was done: {_told(error)}") from None
        self.stdout.write(f"{changed} stopped, removed or given to their teardown. Now there is:")
        if self._show():
            self.stdout.write(HELD)

    def _show(self) -> int:
        """The table; returns how many lines of it are leftovers."""
        now = timezone.now()
        try:
            findings = sweeps.compare_compute(now, with_missing=True)
            stored = sweeps.unowned_storage(now)
        except Exception as error:
            raise CommandError(f"compute could not be listed: {_told(error)}") from None
        for line in _lines(findings):
            self.stdout.write(line)
        for workspace_id in stored:
            self.stdout.write(f"{'orphan':<15} {workspace_id}  stored data without a row")
        counted = Counter(one.verdict for one in findings)
        counts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counted.items())) or "nothing"
        self.stdout.write(f"{counts}; stored data of {len(stored)} without a row.")
        return sum(one.is_doomed for one in findings) + len(stored)


def _lines(findings: Sequence[Finding]) -> list[str]:
    ordered = sorted(findings, key=lambda one: (one.verdict, one.workspace_id))
    return [f"{one.verdict:<15} {one.workspace_id}  {_compute(one):<48}  {_row(one)}" for one in ordered]


def _compute(finding: Finding) -> str:
    compute = finding.compute
    return f"{compute.compute_id} g{compute.generation} {compute.state}" if compute else "no compute"


def _row(finding: Finding) -> str:
    row = finding.standing
    return f"{row.name} ({row.status}, g{row.generation})" if row else "no row"


def _told(error: Exception) -> str:
    return getattr(error, "detail", "") or str(error) or type(error).__name__
