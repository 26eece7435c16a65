"""Background jobs: one body per interval whatever the number of schedulers, every tick on record.

Source: docs/reference/jobs.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from activity.counters import count
from activity.models import BackgroundJob
from config.jobs import INTERVALS, Job, interval_s
from config.locks import try_lock

log = structlog.get_logger(__name__)
T = TypeVar("T")


def supervised(job: Job, body: Callable[[], T]) -> T | None:
    """Run one tick of `job`, unless another process ran it within 0.9 of its interval or is running it now.

    An exception is logged, counted and kept as the job's last error; the next tick runs again. None: not
    run, or failed.
    """
    if not _take_turn(job):
        return None
    with try_lock(f"sweep:{job}") as mine:
        if not mine:
            return None
        began = time.monotonic()
        try:
            result = body()
        except Exception as error:
            log.exception("job.failed", job=job)
            _record_end(job, began, error=f"{type(error).__name__}: {error}")
            return None
        _record_end(job, began, error=None)
        return result


def _take_turn(job: Job) -> bool:
    """Compare-and-set on the last start: of two schedulers that ring at once, one goes on."""
    now = timezone.now()
    turn = now - timedelta(seconds=interval_s(job) * 0.9)
    due = Q(last_started_at=None) | Q(last_started_at__lt=turn)
    mine = BackgroundJob.objects.filter(due, pk=job).update(last_started_at=now)
    if mine:
        return True
    created = BackgroundJob.objects.bulk_create(
        [BackgroundJob(name=job, last_started_at=now)], ignore_conflicts=True
    )
    return bool(created) and BackgroundJob.objects.filter(pk=job, last_started_at=now).exists()


def _record_end(job: Job, began: float, *, error: str | None) -> None:
    connection.close_if_unusable_or_obsolete()
    outcome = "error" if error else "ok"
    changes = {
        "last_duration_ms": int((time.monotonic() - began) * 1000),
        "runs": F("runs") + 1,
        "errors": F("errors") + (1 if error else 0),
        "last_error": error,
    }
    if not error:
        changes["last_success_at"] = timezone.now()
    with transaction.atomic():
        BackgroundJob.objects.filter(pk=job).update(**changes)
        count("molecule_job_runs_total", job=job, outcome=outcome)


def subsystems() -> dict[str, dict[str, Any]]:
    """Every scheduled job by name: last tick, its age, and `stale` when that is more than twice its
    interval.
    """
    known = {row.name: row for row in BackgroundJob.objects.all()}
    return {job.value: _standing(job, known.get(job.value)) for job in INTERVALS}


def _standing(job: Job, row: BackgroundJob | None) -> dict[str, Any]:
    ticked = row.last_started_at if row else None
    age_s = int((timezone.now() - ticked).total_seconds()) if ticked else None
    return {
        "last_tick_at": ticked,
        "seconds_ago": age_s,
        "expected_interval_seconds": interval_s(job),
        "stale": age_s is None or age_s > 2 * interval_s(job),
        "last_error": row.last_error if row else None,
    }
