"""How often something may happen: fixed windows, counted in Valkey by all processes together.

A window begins with its first charge and ends by expiry. Whoever pushes the count above the limit is refused;
what a process has seen full it refuses by itself until the window ends, without asking again.
Source: docs/reference/http.md, Rate limits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
import structlog

from activity.tally import tally
from config.errors import TooManyRequests
from config.valkey import client

log = structlog.get_logger(__name__)

REMEMBERED = 10_000  # full windows a process keeps in mind
PAUSE_S = (
    1.0  # after a failure Valkey is not asked again for so long: a stalled one must not stall every request
)


@dataclass(frozen=True)
class Limit:
    """At most `most` in `seconds` per key. `scope` names it in Valkey and in the metrics."""

    scope: str
    most: int
    seconds: int
    text: str = "rate limit exceeded"


@dataclass(frozen=True)
class Standing:
    """Where a key stands in its window."""

    limit: Limit
    used: int
    reset_s: int

    @property
    def is_exceeded(self) -> bool:
        return self.used > self.limit.most

    @property
    def headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(self.limit.most),
            "X-RateLimit-Remaining": str(max(0, self.limit.most - self.used)),
            "X-RateLimit-Reset": str(self.reset_s),
        }

    def refusal(self) -> TooManyRequests:
        """The 429 to raise or render; counted."""
        tally.add("molecule_rate_limited_total", scope=self.limit.scope)
        headers = {**self.headers, "Retry-After": str(self.reset_s)}
        return TooManyRequests(self.limit.text, headers=headers, retry_after=self.reset_s)


@dataclass(frozen=True)
class Charge:
    """One use of `limit` by `key`; `is_look` only reads whether the window is full already."""

    limit: Limit
    key: str
    is_look: bool = False

    @property
    def name(self) -> str:
        return f"rate:{self.limit.scope}:{self.key}"

    def known(self) -> Standing | None:
        """The standing of a window that this process has seen full."""
        ends = _full.get(self.name)
        if ends is None or (left := ends - time.monotonic()) <= 0:
            return None
        return Standing(self.limit, self.limit.most + 1, _whole_seconds(left))

    def add_to(self, pipeline: Any) -> None:
        """Three commands, on a pipeline that may carry others."""
        if self.is_look:
            pipeline.get(self.name)
            pipeline.ttl(self.name)
        else:
            pipeline.incr(self.name)
            pipeline.expire(self.name, self.limit.seconds, nx=True)
        pipeline.pttl(self.name)

    def standing(self, replies: Sequence[Any], asked: float) -> Standing:
        """What the three replies say; `asked` is the monotonic time before they were asked for."""
        used, left_s = int(replies[0] or 0), max(0, int(replies[2])) / 1000
        if self.is_look:
            used += 1  # the use that would follow
        if used > self.limit.most:
            _remember_full(self.name, asked + left_s)
        return Standing(self.limit, used, _whole_seconds(left_s or self.limit.seconds))


def take(*charges: Charge) -> list[Standing]:
    """Charge all of them in one round trip. Without Valkey everybody is let through, and that is counted."""
    global _paused_until
    known = [standing for charge in charges if (standing := charge.known())]
    if known:
        return known
    if time.monotonic() < _paused_until:
        return [let_through(charge) for charge in charges]
    asked = time.monotonic()
    try:
        pipeline = client().pipeline(transaction=False)
        for charge in charges:
            charge.add_to(pipeline)
        replies = pipeline.execute()
    except redis.RedisError as error:
        _paused_until = time.monotonic() + PAUSE_S
        log.warning("rate_limit.unavailable", error=str(error))
        return [let_through(charge) for charge in charges]
    return [
        charge.standing(replies[3 * index : 3 * index + 3], asked) for index, charge in enumerate(charges)
    ]


def spend(limit: Limit, key: str) -> None:
    """Charge `key`. Raises TooManyRequests above the limit."""
    (standing,) = take(Charge(limit, key))
    if standing.is_exceeded:
        raise standing.refusal()


def forget_everything() -> None:
    """What this process remembers; tests begin without it."""
    global _paused_until
    _paused_until = 0.0
    with _lock:
        _full.clear()


def let_through(charge: Charge) -> Standing:
    """The standing of a use that could not be counted."""
    tally.add("molecule_rate_limit_backend_errors_total")
    return Standing(charge.limit, 0, charge.limit.seconds)


def _whole_seconds(left_s: float) -> int:
    return max(1, math.ceil(left_s))


def _remember_full(name: str, ends: float) -> None:
    now = time.monotonic()
    with _lock:
        if len(_full) >= REMEMBERED:
            for expired in [one for one, until in _full.items() if until <= now]:
                del _full[expired]
        if len(_full) < REMEMBERED:
            _full[name] = ends


_full: dict[str, float] = {}
_paused_until = 0.0
_lock = threading.Lock()
