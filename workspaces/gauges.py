"""Figures of the tree for `GET /metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Count

from activity.counters import label_text
from activity.metrics import Family
from workspaces.models import Status, Workspace

STATUSES = Family("molecule_workspaces", "gauge", "Workspaces by status, removed rows included.")


def by_status() -> Iterator[tuple[str, float]]:
    """Every status is there, at 0 too."""
    counted = dict(Workspace.objects.values_list("status").annotate(Count("pk")))
    for status in Status:
        yield label_text({"status": status}), counted.get(status, 0)
