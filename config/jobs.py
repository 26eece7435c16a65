"""Every background job: its name, its queue and, for a sweep, its interval.

The name is the Celery task, the subsystem on `/admin/liveness` and the `job` label of the metrics. Services
enqueue
by name and never import a task.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import transaction


class Job(StrEnum):
    """Work asked for by a verb, then the sweeps that beat sends."""

    PROVISION = "provisioning.provision"
    RESTART_CYCLE = "provisioning.restart_cycle"
    TEARDOWN = "provisioning.teardown"

    LIVENESS_BACKSTOP = "liveness-backstop"
    HEALTH_SWEEP = "health-sweep"
    PROVISION_TIMEOUT_SWEEP = "provision-timeout-sweep"
    PARKED_COMPUTE = "parked-compute"
    WORKSPACE_CLEANUP = "workspace-cleanup"
    LIFECYCLE_REQUEUE = "lifecycle-requeue"


QUEUES: dict[Job, str] = {
    Job.PROVISION: "lifecycle",
    Job.RESTART_CYCLE: "lifecycle",
    Job.TEARDOWN: "teardown",
}

# Job -> the setting (or constant) that holds its interval in seconds.
INTERVALS: dict[Job, str | int] = {
    Job.LIVENESS_BACKSTOP: "LIVENESS_BACKSTOP_SECONDS",
    Job.HEALTH_SWEEP: "HEALTH_SWEEP_SECONDS",
    Job.PROVISION_TIMEOUT_SWEEP: "PROVISION_TIMEOUT_SWEEP_SECONDS",
    Job.PARKED_COMPUTE: 60,
    Job.WORKSPACE_CLEANUP: 60,
    # Four passes a minute: a start whose worker died is taken over well within the minute.
    Job.LIFECYCLE_REQUEUE: 15,
}


def interval_s(job: Job) -> int:
    """Seconds between two ticks of a sweep."""
    interval = INTERVALS[job]
    return interval if isinstance(interval, int) else int(getattr(settings, interval))


def queue_of(job: Job) -> str:
    return QUEUES.get(job, "sweeps")


def enqueue(job: Job, **ids: Any) -> None:
    """Ring for `job` once the transaction has committed. Arguments are ids as text; the row is the work.

    A lost message costs time, never work: every job has a sweep that finds the row again.
    """
    transaction.on_commit(lambda: _send(job, ids), robust=True)


def _send(job: Job, ids: dict[str, Any]) -> None:
    arguments = {name: str(value) for name, value in ids.items()}
    current_app.signature(job.value, kwargs=arguments).apply_async(queue=queue_of(job), retry=False)


def beat_schedule() -> dict[str, dict[str, Any]]:
    """The static schedule of Celery beat. A tick expires with its interval: a stopped worker meets no
    backlog.
    """
    return {
        job.value: {
            "task": job.value,
            "schedule": float(interval_s(job)),
            "options": {"queue": queue_of(job), "expires": interval_s(job)},
        }
        for job in INTERVALS
    }
