"""Who works on a workspace's compute now: the lifecycle lock, and the lease of a run.

The lock keeps two workers apart while both live; the lease tells others that its worker has died; the
generation protects when either is lost. Source: docs/reference/provisioning.md, Locks and leases.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import NoReturn
from uuid import UUID

import structlog
from django.db import Error as DatabaseError
from django.db import connection

from config.locks import holder_of, try_lock
from provisioning import ledger, progress
from provisioning.models import ProvisionRun

log = structlog.get_logger(__name__)

RENEW_S = 10.0  # a third of the lease: two renewals may fail
RENEWALS_PER_BEAT = 2  # every 20 s a canvas is told that a long step still runs
LOCK_POLL_S = 0.1


class ToldToStop(KeyboardInterrupt):
    """SIGTERM reached this worker process in the middle of a run.

    As a KeyboardInterrupt it passes `except Exception`, and the database driver cancels the statement it
    interrupts.
    """


@contextmanager
def lifecycle_lock(workspace_id: UUID, *, wait_s: float = 0) -> Iterator[bool]:
    """Hold the right to stop and start the workspace's compute; False when it is not free within `wait_s`.

    Whoever finds it taken leaves: the holder rings for what waits as soon as it lets go
    (`ledger.ring_for_waiting`).
    """
    deadline = time.monotonic() + wait_s
    while True:
        with try_lock(f"ws-lifecycle:{workspace_id}") as mine:
            if mine or time.monotonic() >= deadline:
                yield mine
                return
        time.sleep(LOCK_POLL_S)


def lifecycle_holder(workspace_id: UUID) -> str:
    """Who holds the lifecycle lock; an empty text when nobody does."""
    return holder_of(f"ws-lifecycle:{workspace_id}")


@contextmanager
def lifecycle_turn(workspace_id: UUID) -> Iterator[bool]:
    """Hold the lifecycle lock if it is free, and afterwards ring for whoever found it taken."""
    mine = False
    try:
        with lifecycle_lock(workspace_id) as mine:
            yield mine
    except Exception:
        drop_connection()  # it may be what failed
        raise
    finally:
        if mine:
            ledger.ring_for_waiting(workspace_id)


def drop_connection() -> None:
    """Let the next query open a new connection: Django keeps one that was lost."""
    if not connection.in_atomic_block:
        connection.close()


@contextmanager
def kept_lease(run: ProvisionRun) -> Iterator[None]:
    """Renew the lease of `run` from a side thread while the block works, slow calls included."""
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(run, done), name=f"lease-{run.pk}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=RENEW_S)


def _renew(run: ProvisionRun, done: threading.Event) -> None:
    try:
        for renewal in count(1):
            if done.wait(RENEW_S):
                return
            try:
                if not ledger.renew_lease(run):
                    log.info("lease.lost", run_id=str(run.pk))
                    return
                if renewal % RENEWALS_PER_BEAT == 0:
                    progress.beat(run)
            except DatabaseError as error:
                log.warning("lease.renewal_failed", run_id=str(run.pk), error=str(error))
                connection.close()  # the next try gets a new one
    finally:
        connection.close()


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise ToldToStop in the block, so that its work is handed back instead of waiting for a
    lease.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise ToldToStop
