from __future__ import annotations

from typing import Any
from uuid import UUID

from django.apps import AppConfig


class MemoryConfig(AppConfig):
    name = "memory"

    def ready(self) -> None:
        from django.conf import settings

        from activity import lifespan, metrics, search
        from config.jobs import Job, conditions
        from memory import checks  # noqa: F401
        from memory.boot import tell
        from memory.config import is_wired
        from memory.gauges import GAUGES
        from memory.services.outbox import forget_purged
        from memory.services.seeds import plant
        from workspaces import hooks

        conditions[Job.MEMORY_SWEEPER] = lambda: bool(settings.MEMORY_SWEEP_INTERVAL_S)
        conditions[Job.MEMORY_OUTBOX] = is_wired
        conditions[Job.MEMORY_EMBED_PENDING] = lambda: bool(settings.MEMORY_EMBEDDING.is_wanted)
        metrics.gauges += GAUGES
        hooks.born.append(lambda row, memories: plant([(row, memories)]))
        hooks.purged.append(forget_purged)
        lifespan.at_start.append(tell)
        search.sources.append(_remembered)


def _remembered(workspace_id: UUID, text: str, limit: int) -> list[dict[str, Any]]:
    from memory.services.memories import found_in_session

    return found_in_session(workspace_id, text, limit)
