"""Background jobs: one body per interval whatever the number of schedulers, every tick on record.

Source: docs/reference/jobs.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from activity.counters import count
from activity.models import BackgroundJob
from config.jobs import INTERVALS, LOOP_TICK_S, PROBE_S, Job, Loop, interval_s, is_enabled, probe_name, queues
from config.locks import try_lock

log = structlog.get_logger(__name__)
T = TypeVar("T")

RUN_TICK_S = 10.0
# Readiness is patient: a sweep may miss ticks while its worker restarts, a queue be busy with slow starts.
MISSED_TICKS = 3
GRACE = timedelta(seconds=60)
UNDRAINED = timedelta(seconds=300)


def supervised(job: Job, body: Callable[[], T]) -> T | None:
    """Run one tick of `job`, unless another process ran it within 0.9 of its interval or is running it now,
    or this deployment has no use for it.

    An exception is logged, counted and kept as the job's last error; the next tick runs again. None: not
    run, or failed.
    """
    if not is_enabled(job) or not _take_turn(job):
        return None
    with try_lock(f"sweep:{job}") as mine:
        if not mine:
            return None
        began = time.monotonic()
        try:
            with _ticking(job):
                result = body()
        except Exception as error:
            log.exception("job.failed", job=job)
            _record_end(job, began, error=f"{type(error).__name__}: {error}")
            return None
        _record_end(job, began, error=None)
        return result


def tick(name: str) -> None:
    """Put on record that the loop or queue `name` is alive now."""
    now = timezone.now()
    BackgroundJob.objects.bulk_create(
        [BackgroundJob(name=name, last_started_at=now, last_tick_at=now)],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["last_tick_at"],
    )


@contextmanager
def _ticking(job: Job) -> Iterator[None]:
    """Ticks on record every 10 s for as long as the block runs."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(RUN_TICK_S):
            try:
                BackgroundJob.objects.filter(pk=job).update(last_tick_at=timezone.now())
            except (DatabaseError, InterfaceError) as error:
                log.warning("job.tick_lost", job=job, error=str(error))
            finally:
                connection.close()

    thread = threading.Thread(target=run, name=f"tick-{job}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _take_turn(job: Job) -> bool:
    """Compare-and-set on the last start: of two schedulers that ring at once, one goes on."""
    now = timezone.now()
    turn = now - timedelta(seconds=interval_s(job) * 0.9)
    due = Q(last_started_at=None) | Q(last_started_at__lt=turn)
    mine = BackgroundJob.objects.filter(due, pk=job).update(last_started_at=now, last_tick_at=now)
    if mine:
        return True
    created = BackgroundJob.objects.bulk_create(
        [BackgroundJob(name=job, last_started_at=now, last_tick_at=now)], ignore_conflicts=True
    )
    return bool(created) and BackgroundJob.objects.filter(pk=job, last_started_at=now).exists()


def _record_end(job: Job, began: float, *, error: str | None) -> None:
    connection.close_if_unusable_or_obsolete()
    outcome = "error" if error else "ok"
    now = timezone.now()
    changes = {
        "last_tick_at": now,
        "last_duration_ms": int((time.monotonic() - began) * 1000),
        "runs": F("runs") + 1,
        "errors": F("errors") + (1 if error else 0),
        "last_error": error,
    }
    if not error:
        changes["last_success_at"] = now
    with transaction.atomic():
        BackgroundJob.objects.filter(pk=job).update(**changes)
        count("molecule_job_runs_total", job=job, outcome=outcome)


def expected() -> dict[str, int]:
    """What should tick in this deployment, and how often in seconds: sweeps, loops and queues."""
    jobs = {job.value: interval_s(job) for job in INTERVALS if is_enabled(job)}
    loops = {loop.value: LOOP_TICK_S for loop in Loop}
    return jobs | loops | {probe_name(queue): PROBE_S for queue in queues()}


def subsystems() -> dict[str, dict[str, Any]]:
    """Everything expected by name: last tick, its age,
    and `stale` when that is more than twice its interval.
    """
    known = {row.name: row for row in BackgroundJob.objects.all()}
    return {name: _standing(known.get(name), interval) for name, interval in expected().items()}


def _standing(row: BackgroundJob | None, interval: int) -> dict[str, Any]:
    ticked = row.last_tick_at if row else None
    age_s = int((timezone.now() - ticked).total_seconds()) if ticked else None
    return {
        "last_tick_at": ticked,
        "seconds_ago": age_s,
        "expected_interval_seconds": interval,
        "stale": age_s is None or age_s > 2 * interval,
        "last_error": row.last_error if row else None,
    }


def overdue(now: datetime, *, since: datetime) -> tuple[list[str], list[str]]:
    """(jobs and loops that do not tick, queues that are not drained), judged from `since` on:
    what never ticked had its chance from then.
    """
    ticks = dict(BackgroundJob.objects.values_list("name", "last_tick_at"))
    probes = {probe_name(queue) for queue in queues()}
    late = []
    for name, interval in expected().items():
        patience = UNDRAINED if name in probes else timedelta(seconds=MISSED_TICKS * interval) + GRACE
        if now - max(since, ticks.get(name) or since) > patience:
            late.append(name)
    return [name for name in late if name not in probes], [name for name in late if name in probes]
