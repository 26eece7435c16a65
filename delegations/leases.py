"""Who waits for a callee now: leases of the delegations that this process has sent, renewed by one thread.

A worker that dies stops renewing, and the sweeper learns of it within a minute.
Source: docs/reference/delegations.md, The executor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from django.db import DatabaseError, InterfaceError, connection
from django.db.models.functions import Now

from delegations.models import Delegation, Status

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=60)
RENEW_S = 15.0


class Keeper:
    """The open dispatches of this process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: it holds nothing, and its parent's thread does not run here."""
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def keeping(self, delegation_id: str) -> Iterator[None]:
        with self._lock:
            self._open.add(delegation_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="delegation-leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(delegation_id)

    def renew(self) -> int:
        """Prolong what is held; returns how many."""
        with self._lock:
            held = sorted(self._open)
        if not held:
            return 0
        rows = Delegation.objects.filter(
            pk__in=held, status=Status.DISPATCHED, lease_expires_at__isnull=False
        )
        return rows.update(lease_expires_at=Now() + LEASE)

    def _run(self) -> None:
        nap = threading.Event()
        while True:
            nap.wait(RENEW_S)
            try:
                self.renew()
            except (DatabaseError, InterfaceError) as error:
                log.warning("delegation.lease_not_renewed", error=str(error))
            finally:
                connection.close()


keeper = Keeper()
os.register_at_fork(after_in_child=keeper.forget)
