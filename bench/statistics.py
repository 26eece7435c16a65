"""Samples of a load and what is reported of them."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Samples:
    """What one route answered: milliseconds per request, and how often each status came.

    Picklable: it travels from the process that made the load."""

    milliseconds: array[float] = field(default_factory=lambda: array("d"))
    statuses: Counter[int] = field(default_factory=Counter)
    body_bytes: int = 0

    def add(self, seconds: float, status: int, size: int) -> None:
        self.milliseconds.append(seconds * 1000)
        self.statuses[status] += 1
        self.body_bytes += size

    @property
    def failures(self) -> dict[int, int]:
        """Counts of everything that is no 2xx."""
        return {status: n for status, n in sorted(self.statuses.items()) if not 200 <= status < 300}


@dataclass
class Load:
    """One run of a generator: samples per label, its wall time, and how much of that its process was busy.

    `frames` are what its sockets heard, per event: milliseconds from the frame's own timestamp to its
    arrival, on the one clock of this machine."""

    samples: dict[str, Samples]
    seconds: float
    busy_share: float = 0.0
    unanswered: int = 0
    frames: dict[str, Samples] = field(default_factory=dict)
    lost_sockets: int = 0


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of `values` do not exceed (nearest rank); NaN without values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
