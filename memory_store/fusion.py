"""Two orders of the same rows become one: by words and by meaning. Source: docs/reference/memory.md, Vectors.

Reciprocal rank fusion (Cormack, Clarke, Buettcher 2009): what both put first comes first, and nothing
that only one of them finds is lost.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime
from typing import TypeVar

K = 60
POOL, POOL_PER_RESULT = 50, 4
PIN, RECENCY, HALF_LIFE_DAYS = 0.05, 0.05, 30.0

T = TypeVar("T", bound=Hashable)


def pool(limit: int) -> int:
    """How many of each order are looked at for `limit` results."""
    return max(POOL, POOL_PER_RESULT * limit)


def fused(*orders: Sequence[T]) -> dict[T, float]:
    """A score of 0 to 1 for everything in any order; 1 is first in all of them."""
    scores: dict[T, float] = {}
    for order in orders:
        for rank, one in enumerate(order, 1):
            scores[one] = scores.get(one, 0.0) + 1 / (K + rank)
    best = len(orders) / (K + 1)
    return {one: score / best for one, score in scores.items()}


def boosted(score: float, *, is_pinned: bool, created_at: datetime, now: datetime) -> float:
    """A little more for what is pinned and for what is young; still 0 to 1."""
    age_days = max((now - created_at).total_seconds(), 0.0) / 86_400
    young: float = 0.5 ** (age_days / HALF_LIFE_DAYS)
    return score * (1 + PIN * is_pinned + RECENCY * young) / (1 + PIN + RECENCY)
