"""Make the vectors that are missing, or all of them anew. It may be stopped and started again."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from memory.services.meaning import embed_pending, kept_here
from memory_store import vectors
from memory_store.providers import NoVector


class Command(BaseCommand):
    """Exit status 1 when there are no vectors, or the provider fails."""

    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--all", action="store_true", help="forget those of the chosen model first")

    def handle(self, *args: Any, **options: Any) -> None:
        active = [texts for texts in kept_here() if vectors.is_active(texts)]
        if not active:
            self.stderr.write("there are no vectors here; run memory_enable_vector")
            sys.exit(1)
        if options["all"]:
            for texts in active:
                vectors.forget_all(texts)
        total = sum(vectors.backlog(texts) for texts in active)
        try:
            done = embed_pending(within_s=None, tell=lambda count: self.stdout.write(f"{count} of {total}"))
        except NoVector as reason:
            self.stderr.write(f"the provider does not answer: {reason}")
            sys.exit(1)
        self.stdout.write(f"{done} vectors made")
