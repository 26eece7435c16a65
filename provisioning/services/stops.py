"""Stopping the compute of many workspaces at once, within a budget: for web requests, which must answer in
time.

Source: docs/reference/provisioning.md, Stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from enum import StrEnum
from uuid import UUID

import structlog
from django.db import connection

from config.locks import outside_transaction
from provisioning import dispatch, ledger
from provisioning.leases import lifecycle_lock
from provisioning.services.execution import stop_with_retry

log = structlog.get_logger(__name__)

PARALLEL = 8
LOCK_WAIT_S = 5.0


class Outcome(StrEnum):
    STOPPED = "stopped"
    FAILED = "failed"  # the backend said no, three times
    BUSY = "busy"  # somebody holds the lifecycle lock: a start in flight, which finds itself superseded
    UNFINISHED = "unfinished"  # not acknowledged within the budget


def stop_all(
    below: Iterable[tuple[UUID, int | None]],
    *,
    budget_s: float,
    then: Callable[[UUID], None] | None = None,
) -> Iterator[tuple[UUID, Outcome]]:
    """Stop each workspace's compute below the given generation (None: all) and yield outcomes as they come.

    `then` runs under the workspace's lock once its compute is gone; its failure is a FAILED outcome.
    """
    outside_transaction()
    wanted = list(below)
    if not dispatch.has_provisioner():
        yield from ((workspace_id, Outcome.STOPPED) for workspace_id, _ in wanted)
        return
    deadline = time.monotonic() + budget_s
    pool = ThreadPoolExecutor(max_workers=PARALLEL, thread_name_prefix="stop")
    pending = {
        pool.submit(_stop, workspace_id, bound, deadline, then): workspace_id
        for workspace_id, bound in wanted
    }
    try:
        while pending:
            done, _ = wait(
                pending, timeout=max(0.0, deadline - time.monotonic()), return_when=FIRST_COMPLETED
            )
            if not done:
                break
            for future in done:
                yield pending.pop(future), _outcome(future)
        yield from ((workspace_id, Outcome.UNFINISHED) for workspace_id in pending.values())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for workspace_id, _ in wanted:
            with suppress(Exception):  # a start that found the lock taken; its sweep would find it too
                ledger.ring_for_waiting(workspace_id)


def _stop(
    workspace_id: UUID, bound: int | None, deadline: float, then: Callable[[UUID], None] | None
) -> Outcome:
    wait_s = max(0.0, min(LOCK_WAIT_S, deadline - time.monotonic()))
    try:
        with lifecycle_lock(workspace_id, wait_s=wait_s) as mine:
            if not mine:
                return Outcome.BUSY
            stop_with_retry(workspace_id, below_generation=bound)
            if then:
                then(workspace_id)
            return Outcome.STOPPED
    finally:
        connection.close()  # the backend may have asked the ledger


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except Exception as error:
        log.warning("stop.failed", error=getattr(error, "detail", "") or str(error))
        return Outcome.FAILED
