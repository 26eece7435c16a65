"""Leases of work that waits long: renewed by one thread of the process for all that it holds.

A process that dies stops renewing, and a sweep learns of it when the lease expires. Leases are judged by the
database's clock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from django.db import DatabaseError, InterfaceError, connection

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=60)
RENEW_S = 15.0


class Keeper:
    """What this process holds of one table; `renew` prolongs the leases of the given ids."""

    def __init__(self, renew: Callable[[list[str]], int]) -> None:
        self._renew = renew
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin anew, as a forked child must: it holds nothing, and its parent's thread does not run here."""
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def keeping(self, one: str) -> Iterator[None]:
        """Renew the lease of `one` while the block works."""
        with self._lock:
            self._held.add(one)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(one)

    def renew(self) -> int:
        """Prolong what is held; returns how many leases there still are."""
        with self._lock:
            held = sorted(self._held)
        return self._renew(held) if held else 0

    def _run(self) -> None:
        nap = threading.Event()
        while True:
            nap.wait(RENEW_S)
            try:
                self.renew()
            except (DatabaseError, InterfaceError) as error:
                log.warning("lease.not_renewed", error=str(error))
            finally:
                connection.close()
