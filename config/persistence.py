"""Writing what must not be lost because the database is away for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from django.db import InterfaceError, OperationalError

from config.locks import release_connection

log = structlog.get_logger(__name__)
T = TypeVar("T")

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


def persistent(write: Callable[[], T]) -> T:
    """`write()`, again and again for about a minute while the database cannot be reached; it must be safe to
    repeat. Raises its last error.
    """
    for pause_s in PAUSES_S:
        try:
            return write()
        except (OperationalError, InterfaceError) as error:
            log.warning("write.repeated", error=str(error))
            release_connection()
            time.sleep(pause_s)
    return write()
