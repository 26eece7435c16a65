"""The last day in pictures: delegations by state, what ended, what went wrong; drawn from the samples.

Source: docs/reference/console.md, Charts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from django.db.models import DateTimeField, DurationField, F, Func, Value

from console.models import FleetSample
from console.services.samples import STATE
from delegations.models import Status

WINDOW = timedelta(hours=24)
BIN = timedelta(minutes=15)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# Told apart by who cannot tell red from green, and readable on light and dark.
BLUE, ORANGE, GREEN, RED, VIOLET = "#3b82f6", "#d97706", "#0d9488", "#dc2626", "#8b5cf6"


@dataclass(frozen=True)
class Line:
    label: str
    key: str
    colour: str


@dataclass(frozen=True)
class Chart:
    """`says` is the newest point in words, for who does not see it; `data` and `options` are Chart.js's."""

    title: str
    says: str
    data: str
    options: str


IN_FLIGHT_LINES = (
    Line("queued", f"{STATE}{Status.QUEUED}", BLUE),
    Line("dispatched", f"{STATE}{Status.DISPATCHED}", VIOLET),
    Line("in progress", f"{STATE}{Status.IN_PROGRESS}", GREEN),
    Line("stuck", f"{STATE}{Status.STUCK}", RED),
)
ENDED_LINES = (Line("completed", "completed", GREEN), Line("failed", "failed", RED))
ERROR_LINES = (
    Line("requests answered 5xx", "requests_failed", RED),
    Line("messages that agents did not take", "messages_failed", ORANGE),
    Line("starts", "starts_failed", BLUE),
    Line("jobs", "jobs_failed", VIOLET),
)

Samples = Sequence[tuple[datetime, dict[str, int] | None]]


def delegation_charts(now: datetime) -> list[Chart]:
    found = samples(now)
    return [_delegations(found), _ended(found)]


def fleet_charts(now: datetime) -> list[Chart]:
    found = samples(now)
    return [_delegations(found), _ended(found), _errors(found)]


def samples(now: datetime) -> Samples:
    """(start, values) of each quarter of an hour of the last day, by its last sample; None: there is none."""
    start = Func(
        Value(BIN, output_field=DurationField()),
        F("at"),
        Value(_EPOCH, output_field=DateTimeField()),
        function="date_bin",
        output_field=DateTimeField(),
    )
    rows = (
        FleetSample.objects.filter(at__gt=now - WINDOW - BIN)
        .annotate(start=start)
        .order_by("start", "-at")
        .distinct("start")
    )
    taken = dict(rows.values_list("start", "values"))
    newest = _EPOCH + (now - _EPOCH) // BIN * BIN
    starts = [newest - BIN * back for back in range(WINDOW // BIN, -1, -1)]
    return [(one, taken.get(one)) for one in starts]


def _delegations(found: Samples) -> Chart:
    points = [
        [values.get(line.key, 0) if values else None for _, values in found[1:]] for line in IN_FLIGHT_LINES
    ]
    return _chart("Delegations in flight", IN_FLIGHT_LINES, found, points)


def _ended(found: Samples) -> Chart:
    return _chart("Delegations ended, in 15 minutes", ENDED_LINES, found, _grown(found, ENDED_LINES))


def _errors(found: Samples) -> Chart:
    return _chart("What failed, in 15 minutes", ERROR_LINES, found, _grown(found, ERROR_LINES))


def _grown(found: Samples, lines: Iterable[Line]) -> list[list[int | None]]:
    """By how much each counter grew in each quarter; None where one of both ends is missing."""
    return [
        [_growth(line.key, before, after) for (_, before), (_, after) in pairwise(found)] for line in lines
    ]


def _growth(key: str, before: dict[str, int] | None, after: dict[str, int] | None) -> int | None:
    if before is None or after is None:
        return None
    grown = after.get(key, 0) - before.get(key, 0)
    return grown if grown >= 0 else after.get(key, 0)  # somebody emptied the counters


def _chart(title: str, lines: Sequence[Line], found: Samples, points: list[list[int | None]]) -> Chart:
    data = {
        "labels": [f"{start:%H:%M}" for start, _ in found[1:]],
        "datasets": [
            {
                "label": line.label,
                "data": series,
                "borderColor": line.colour,
                "backgroundColor": line.colour,
                "pointRadius": 0,
                "borderWidth": 2,
            }
            for line, series in zip(lines, points, strict=True)
        ],
    }
    newest = ((line.label, series[-1]) for line, series in zip(lines, points, strict=True))
    says = ", ".join(f"{'—' if value is None else value} {label}" for label, value in newest)
    return Chart(title, says, json.dumps(data), json.dumps(_OPTIONS))


_OPTIONS: dict[str, Any] = {
    "animation": False,
    "maintainAspectRatio": False,
    "interaction": {"mode": "index", "intersect": False},
    "plugins": {"legend": {"display": True, "align": "start", "labels": {"boxWidth": 12, "boxHeight": 2}}},
    "scales": {
        "x": {"grid": {"display": False}, "ticks": {"maxTicksLimit": 9, "maxRotation": 0}},
        "y": {"beginAtZero": True, "ticks": {"precision": 0, "maxTicksLimit": 5}, "grid": {}},
    },
}
