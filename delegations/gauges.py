"""Figures of the ledger for `GET /metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Count

from activity.counters import label_text
from activity.metrics import Family
from delegations.models import IN_FLIGHT, Delegation

IN_FLIGHT_FAMILY = Family("molecule_delegations_in_flight", "gauge", "Delegations that have not ended.")


def in_flight() -> Iterator[tuple[str, float]]:
    """Every status is there, at 0 too."""
    counted = dict(Delegation.objects.in_flight().values_list("status").annotate(Count("pk")))
    for status in sorted(IN_FLIGHT):
        yield label_text({"status": status}), counted.get(status, 0)
