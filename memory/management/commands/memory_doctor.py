"""How memory stands: mode, store, vectors, what is owed."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import Count

from memory import config
from memory.backends import backend
from memory.models import AgentMemory, KeyValue, OutboxEntry
from memory.services.meaning import kept_here
from memory_store import vectors
from memory_store.contract import StoreError


class Command(BaseCommand):
    """Exit status 1 when the store does not answer, or something is half switched on."""

    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"mode: {_mode()}")
        problems = [half] if (half := config.half_set()) and not config.is_wired() else []
        if config.is_wired():
            problems += self._store()
        for texts in kept_here():
            found = vectors.is_active(texts)
            state = f"by meaning, {vectors.backlog(texts)} without a vector" if found else "by words"
            self.stdout.write(f"{texts.table}: found {vectors.why_not() or state}")
        scopes = AgentMemory.objects.values_list("scope").annotate(Count("pk")).order_by("scope")
        self.stdout.write(f"agent_memories: {dict(scopes)}; workspace_memory: {KeyValue.objects.count()}")
        waiting = OutboxEntry.objects.filter(attempts__gt=0).count()
        self.stdout.write(f"outbox: {OutboxEntry.objects.count()}, tried in vain: {waiting}")
        for problem in problems:
            self.stderr.write(problem)
        sys.exit(1 if problems else 0)

    def _store(self) -> list[str]:
        try:
            known = backend().ask()
        except StoreError as error:
            return [f"the store does not answer: {error.message}"]
        self.stdout.write(f"store: {', '.join(sorted(known)) or 'no capabilities'}")
        return []


def _mode() -> str:
    if config.is_primary():
        return "primary"
    if config.is_wired():
        return "wired"
    return "half" if config.half_set() else "off"
