"""Copy the scoped memories of the first store into records, or compare the two."""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandParser

from memory import config
from memory.services import backfill

MODES = ("dry_run", "apply", "verify")


class Command(BaseCommand):
    """Exit status 0; 1 after errors or mismatches; 2 for arguments or settings that do not do."""

    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="show where they would go, write nothing")
        parser.add_argument("--apply", action="store_true", help="copy them; a second run changes nothing")
        parser.add_argument("--verify", action="store_true", help="compare some workspaces")
        parser.add_argument("--workspace", type=UUID, help="only this one")
        parser.add_argument("--limit", type=int, help="at most so many memories")
        parser.add_argument("--verify-sample", type=int, default=50, help="how many workspaces are compared")

    def handle(self, *args: Any, **options: Any) -> None:
        if sum(options[mode] for mode in MODES) != 1:
            self._end("specify exactly one of --dry-run, --apply, or --verify")
        if not config.is_wired():
            self._end("MEMORY_PLUGIN_URL is not set")
        if options["verify"]:
            verified = backfill.verify(
                workspace_id=options["workspace"], sample=options["verify_sample"], tell=self.stdout.write
            )
            self.stdout.write(str(verified))
            sys.exit(1 if verified.mismatches or verified.errors else 0)
        copied = backfill.copy(
            workspace_id=options["workspace"],
            limit=options["limit"],
            is_dry=options["dry_run"],
            tell=self.stdout.write,
        )
        if options["dry_run"]:
            for name, count in sorted(copied.namespaces.items()):
                self.stdout.write(f"{name}: {count}")
        self.stdout.write(str(copied))
        sys.exit(1 if copied.errors else 0)

    def _end(self, complaint: str) -> None:
        self.stderr.write(complaint)
        sys.exit(2)
