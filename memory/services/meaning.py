"""Vectors of what this server keeps itself. Source: docs/reference/memory.md, Vectors."""

from __future__ import annotations

import time
from collections.abc import Callable

from memory import config
from memory.services.scoped import TEXTS
from memory_store import vectors
from memory_store.vectors import RECORDS, Texts

TURN_S = 25.0  # of one tick; the next one goes on


def kept_here() -> list[Texts]:
    """The tables whose vectors are this server's: a plugin makes those of its own."""
    return [TEXTS, RECORDS] if config.is_in_process() else [TEXTS]


def embed_pending(*, within_s: float | None = TURN_S, tell: Callable[[int], None] = lambda done: None) -> int:
    """Make the vectors that are missing, batch by batch; how many were made. Raises NoVector."""
    began, done = time.monotonic(), 0
    for texts in kept_here():
        while count := vectors.embed_pending(texts):
            done += count
            tell(done)
            if within_s is not None and time.monotonic() - began > within_s:
                return done
    return done
