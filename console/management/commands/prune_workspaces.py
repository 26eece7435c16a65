"""`manage.py prune_workspaces`: copies and idle leftovers of workspaces, shown; with `--apply` removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from config.errors import DomainError
from provisioning.duplicate_rules import CleanupPlan, Member, Options, Verdict, verdicts
from provisioning.services.duplicates import DEFAULT_MAX, Outcome, clean_up_duplicates, plan_cleanup

BAR = 30


class Command(BaseCommand):
    help = (
        "Shows copies of workspaces (one name under one parent, also `name (2)`) and what would become of "
        "each. Nothing is changed without --apply and the plan's number."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--apply", action="store_true", help="remove what the plan says")
        parser.add_argument("--plan", default="", metavar="HASH", help="the plan that was shown")
        parser.add_argument(
            "--max", type=int, default=DEFAULT_MAX, metavar="N", help="remove at most N (%(default)s)"
        )
        parser.add_argument(
            "--stale-days",
            type=int,
            metavar="N",
            help="also lone workspaces silent for N days",
        )
        parser.add_argument(
            "--include-live",
            action="store_true",
            help="also those that called within 5 minutes or start",
        )
        parser.add_argument(
            "--allow-data-loss",
            action="store_true",
            help="also those with secrets or memories that their keeper lacks",
        )

    def handle(self, *args: Any, **given: Any) -> None:
        if given["stale_days"] is not None and given["stale_days"] < 1:
            raise CommandError("--stale-days must be at least 1")
        if given["max"] < 1:
            raise CommandError("--max must be at least 1")
        options = Options(given["stale_days"], given["include_live"], given["allow_data_loss"])
        try:
            if given["apply"]:
                self._apply(options, given["plan"], given["max"])
            else:
                self._show(options)
        except DomainError as error:
            raise CommandError(error.text) from None

    def _show(self, options: Options) -> None:
        plan = plan_cleanup(options)
        for line in _lines(plan):
            self.stdout.write(line)
        counted = verdicts(plan)
        vcpus = sum(member.facts.vcpus for member in plan.removable)
        self.stdout.write(
            f"{counted[Verdict.REMOVE]} to remove ({vcpus:g} vCPU), {counted[Verdict.BLOCKED]} blocked, "
            f"{counted[Verdict.KEEP]} kept. Nothing was changed."
        )
        if plan.removable:
            self.stdout.write(f"To remove them: add --apply --plan {plan.fingerprint}")

    def _apply(self, options: Options, fingerprint: str, limit: int) -> None:
        if not fingerprint:
            raise CommandError("--apply needs --plan: run without --apply first and look at what it shows")
        outcome = clean_up_duplicates(
            options, fingerprint=fingerprint, limit=limit, actor="command-line", on_progress=self._progress
        )
        self._report(outcome)

    def _progress(self, done: int, total: int) -> None:
        bar = "#" * (BAR * done // max(1, total))
        ending = "\n" if done >= total else ""
        self.stderr.write(f"\r[{bar:<{BAR}}] {done}/{total}", ending=ending)
        self.stderr.flush()

    def _report(self, outcome: Outcome) -> None:
        self.stdout.write(f"{len(outcome.removed)} removed, {outcome.freed_vcpus:g} vCPU freed.")
        for failure in outcome.failures:
            self.stdout.write(f"not removed: {failure['workspace_id']}: {failure['error']}")
        for workspace_id in outcome.pending:
            self.stdout.write(f"removed, its stop is still owed: {workspace_id}")
        if outcome.leftovers is None:
            self.stdout.write("What still runs could not be listed; look again later.")
        for compute_id in outcome.leftovers or ():
            self.stdout.write(f"still running: {compute_id}")
        if outcome.remaining:
            self.stdout.write(f"{outcome.remaining} remain: run without --apply for the next plan.")


def _lines(plan: CleanupPlan) -> Iterator[str]:
    for group in plan.groups:
        yield f"{group.name!r} below {group.parent_id or 'the roots'}"
        yield from (_line(member) for member in group.members)
    if plan.stale:
        yield "without a sign of life"
        yield from (_line(member) for member in plan.stale)


def _line(member: Member) -> str:
    row, facts = member.row, member.facts
    heard = f"{(timezone.now() - row.last_heartbeat_at).days}d ago" if row.last_heartbeat_at else "never"
    compute = ", ".join(facts.compute_ids) or "none"
    return (
        f"  {member.verdict:<8}{row.id}  {row.name!r}  {row.status}  T{row.tier} {row.runtime}  "
        f"created {row.created_at:%Y-%m-%d}  heartbeat {heard}  24h activity {facts.activity_24h}  "
        f"tasks {row.active_tasks}  children {member.children}  compute {compute} {facts.compute_state} "
        f"{facts.vcpus:g} vCPU  ({member.reason})"
    )
