"""Make what memories need to be found by meaning: the extension, the tables of vectors, their index."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from memory.services.meaning import kept_here
from memory_store import vectors


class Command(BaseCommand):
    """Exit status 1 when they are required and cannot be had."""

    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        if not vectors.chosen().is_wanted:
            self.stdout.write("off: MEMORY_VECTOR and MEMORY_EMBEDDING_PROVIDER are not both set")
            return
        for texts in kept_here():
            try:
                reason = vectors.begin(texts)
            except vectors.Unavailable as unavailable:
                self.stderr.write(f"{unavailable}")
                sys.exit(1)
            self.stdout.write(f"{texts.table}: {reason or 'found by meaning'}")
