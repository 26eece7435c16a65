"""A store that does not answer is left alone for a while. Source: docs/reference/memory.md, Breaker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memory_store.contract import Code, StoreError

FAILURES = 3
OPEN_S = 60.0


class Breaker:
    """Opens after three failures in a row; a minute later one call may try, and decides.

    One per process, for all its threads. `clock` gives seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until: float | None = None

    @property
    def has_failed(self) -> bool:
        """The last call was a failure."""
        return self._failures > 0

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Around one call. Raises StoreError at once while it is open; UNAVAILABLE and INTERNAL from within
        are failures, any other end of the block is a success.
        """
        self._admit()
        try:
            yield
        except StoreError as error:
            self._record(is_failure=error.code in {Code.UNAVAILABLE, Code.INTERNAL})
            raise
        except BaseException:
            self._record(is_failure=True)
            raise
        self._record(is_failure=False)

    def _admit(self) -> None:
        with self._lock:
            if self._open_until is None:
                return
            now = self._clock()
            if now < self._open_until:
                raise StoreError(Code.UNAVAILABLE, "breaker open")
            self._open_until = now + OPEN_S  # the others wait for what this one finds

    def _record(self, *, is_failure: bool) -> None:
        with self._lock:
            if not is_failure:
                self._failures, self._open_until = 0, None
                return
            self._failures += 1
            if self._failures >= FAILURES:
                self._open_until = self._clock() + OPEN_S
