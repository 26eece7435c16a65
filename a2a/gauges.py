"""Figures of the queue for `GET /metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from a2a.models import QueueItem, QueueStatus
from activity.metrics import Family
from workspaces.models import ALIVE

DEPTH = Family("molecule_a2a_queue_depth", "gauge", "Messages that wait in the queue.")
STRANDED = Family(
    "molecule_a2a_queue_stranded", "gauge", "Messages that wait for a workspace which is not online."
)


def depth() -> Iterator[tuple[str, float]]:
    yield "", QueueItem.objects.filter(status=QueueStatus.QUEUED).count()


def stranded() -> Iterator[tuple[str, float]]:
    waiting = QueueItem.objects.filter(status=QueueStatus.QUEUED)
    yield "", waiting.exclude(workspace__status__in=ALIVE).count()
