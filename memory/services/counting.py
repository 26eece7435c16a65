"""What memory counts of itself. Source: docs/reference/metrics.md."""

from __future__ import annotations

from activity.tally import tally


def count_write(surface: str, kind: str, outcome: str) -> None:
    tally.add("molecule_memory_writes_total", surface=surface, kind=kind, outcome=outcome)


def count_search(path: str, outcome: str) -> None:
    tally.add("molecule_memory_searches_total", path=path, outcome=outcome)
