"""Counters of the hot paths: summed in the process, added to the shared counters every few seconds.

It keeps a request and a published frame free of an extra statement; at most one interval of counts is lost
with a killed process. What must be exact is counted in its transaction (activity/counters.py). Source:
docs/reference/metrics.md.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable

import structlog
from django.db import DatabaseError, InterfaceError, connection, transaction

from activity.counters import add, label_text

log = structlog.get_logger(__name__)

FLUSH_S = 2.0


class Tally:
    """Sums per series, drained by one daemon thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: its parent's thread does not run here,
        and its sums are not ours.
        """
        self._lock = threading.Lock()
        self._sums: Counter[tuple[str, str]] = Counter()
        self._thread: threading.Thread | None = None

    def add(self, name: str, amount: int = 1, /, **labels: str) -> None:
        with self._lock:
            self._sums[(name, label_text(labels))] += amount
            if self._thread is None:  # started on first use: most processes of a test never need it
                self._thread = threading.Thread(target=self._drain, name="tally", daemon=True)
                self._thread.start()

    def observe(self, name: str, seconds: float, bounds: Iterable[float], /, **labels: str) -> None:
        """Count one duration in the histogram `name`: every bucket that holds it, the sum, the number."""
        for bound in bounds:
            if seconds <= bound:
                self.add(f"{name}_bucket", **labels, le=f"{bound:g}")
        self.add(f"{name}_bucket", **labels, le="+Inf")
        self.add(f"{name}_sum", int(seconds * 1_000_000), **labels)
        self.add(f"{name}_count", **labels)

    def flush(self) -> None:
        """Add what was counted since the last flush to the shared counters;
        keeps it when the database is away.
        """
        with self._lock:
            sums, self._sums = self._sums, Counter()
        if not sums:
            return
        try:
            with transaction.atomic():
                for (name, labels), amount in sorted(sums.items()):  # sorted: two flushes never deadlock
                    add(name, labels, amount)
        except (DatabaseError, InterfaceError) as error:
            log.warning("tally.not_flushed", error=str(error))
            with self._lock:
                self._sums.update(sums)

    def _drain(self) -> None:
        while True:
            time.sleep(FLUSH_S)
            self.flush()
            connection.close()


tally = Tally()
atexit.register(tally.flush)
os.register_at_fork(after_in_child=tally.forget)
