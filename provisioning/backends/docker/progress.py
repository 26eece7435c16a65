"""What a pull or a build says while it works: read to its end, told to the log, given up when too slow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from provisioning.backends.base import BackendError, ErrorClass

log = structlog.get_logger(__name__)

TOLD_EVERY_S = 15.0
NOT_AVAILABLE = "the workspace's image could not be obtained"


def drain(lines: Iterable[Mapping[str, Any]], *, within_s: float, what: str) -> None:
    """Read a pull's or a build's progress to its end, telling the log now and then.

    Raises BackendError(IMAGE_UNAVAILABLE).
    """
    began = told = time.monotonic()
    for line in lines:
        now = time.monotonic()
        if problem := line.get("error"):
            raise BackendError(
                ErrorClass.IMAGE_UNAVAILABLE, NOT_AVAILABLE, detail=f"{what}: {problem}", retryable=True
            )
        if now - began > within_s:
            raise BackendError(
                ErrorClass.IMAGE_UNAVAILABLE, NOT_AVAILABLE, detail=f"{what}: took too long", retryable=True
            )
        text = str(line.get("stream") or line.get("status") or "").strip()
        if text.startswith("Step ") or (text and now - told > TOLD_EVERY_S):
            told = now
            log.info("image.progress", image=what, text=text[:200])
