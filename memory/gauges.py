"""What memory shows of itself on /metrics. Source: docs/reference/metrics.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from activity.metrics import Family
from memory import config
from memory.backends import backend
from memory.services.meaning import kept_here
from memory_store import vectors

BREAKER = Family(
    "molecule_memory_plugin_breaker_open", "gauge", "1 while this process leaves the memory plugin alone."
)
BACKLOG = Family("molecule_memory_embed_backlog", "gauge", "Texts that have no current vector.")


def breaker() -> Iterator[tuple[str, float]]:
    yield "", float(config.is_wired() and backend().is_resting)


def backlog() -> Iterator[tuple[str, float]]:
    yield "", float(sum(vectors.backlog(texts) for texts in kept_here() if vectors.is_active(texts)))


GAUGES: list[tuple[Family, Callable[[], Iterator[tuple[str, float]]]]] = [
    (BREAKER, breaker),
    (BACKLOG, backlog),
]
