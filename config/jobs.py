"""Every background job: its name, its queue and, for a sweep, its interval.

The name is the Celery task, the subsystem on `/admin/liveness` and the `job` label of the metrics. Services
enqueue
by name and never import a task.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
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
    PROVISION_IMPORTED = "provisioning.provision_imported"
    DELIVER_RESTART_CONTEXT = "provisioning.deliver_restart_context"
    A2A_DRAIN = "a2a.drain"
    DELEGATE = "delegations.dispatch"
    DELEGATIONS_OF_REMOVED = "delegations.of_removed"
    SCHEDULE_FIRE = "schedules.fire"
    IMAGE_REFRESH = "provisioning.image_refresh"
    MEMORY_DELIVER = "memory.deliver"
    REPAIR = "console.repair"
    CHANNEL_DELIVER = "chat_channels.deliver"

    LIVENESS_BACKSTOP = "liveness-backstop"
    HEALTH_SWEEP = "health-sweep"
    PROVISION_TIMEOUT_SWEEP = "provision-timeout-sweep"
    PARKED_COMPUTE = "parked-compute"
    WORKSPACE_CLEANUP = "workspace-cleanup"
    LIFECYCLE_REQUEUE = "lifecycle-requeue"
    RESTART_CONTEXTS = "restart-contexts"
    ORPHAN_SWEEPER = "orphan-sweeper"
    COMPUTE_RECONCILER = "compute-reconciler"
    EC2_ORPHAN_SWEEPER = "ec2-orphan-sweeper"
    BOOTSTRAP_WATCHER = "bootstrap-watcher"
    HIBERNATION_MONITOR = "hibernation-monitor"
    PHANTOM_BUSY_SWEEP = "phantom-busy-sweep"
    IMAGE_AUTO_REFRESH = "image-auto-refresh"
    ACTIVITY_RETENTION = "activity-retention"
    PENDING_UPLOADS_SWEEPER = "pending-uploads-sweeper"
    A2A_QUEUE_SWEEPER = "a2a-queue-sweeper"
    MEMORY_SWEEPER = "memory-sweeper"
    MEMORY_OUTBOX = "memory-outbox"
    MEMORY_EMBED_PENDING = "memory-embed-pending"
    DELEGATION_SWEEPER = "delegation-sweeper"
    FLEET_SAMPLER = "fleet-sampler"
    ABANDONED_IMPORTS = "abandoned-imports"
    REPAIRS = "repairs"
    CHANNEL_MANAGER = "channel-manager"
    SCHEDULER = "scheduler"

    QUEUE_PROBE = "queue-probe"


class Loop(StrEnum):
    """What runs all the time inside a process; on `/admin/liveness` beside the jobs."""

    BROADCASTER = "broadcaster"


QUEUES: dict[Job, str] = {
    Job.PROVISION: "lifecycle",
    Job.RESTART_CYCLE: "lifecycle",
    Job.TEARDOWN: "teardown",
    Job.PROVISION_IMPORTED: "bulk",  # hundreds at once must not stand before one restart
    Job.DELIVER_RESTART_CONTEXT: "delegations",  # waits for an agent: never where starts wait
    Job.A2A_DRAIN: "delegations",
    Job.DELEGATE: "delegations",
    Job.DELEGATIONS_OF_REMOVED: "delegations",
    Job.SCHEDULE_FIRE: "delegations",  # waits for an agent, too
    Job.IMAGE_REFRESH: "images",
    Job.MEMORY_DELIVER: "bulk",
    Job.REPAIR: "teardown",
    Job.CHANNEL_DELIVER: "delegations",  # waits for an agent
}

SWEEPS = "sweeps"
PROBE_S = 60
LOOP_TICK_S = 10

# Sweep -> its interval in seconds: the name of a setting, a constant, or what computes it.
INTERVALS: dict[Job, str | int | Callable[[], int]] = {
    Job.LIVENESS_BACKSTOP: "LIVENESS_BACKSTOP_SECONDS",
    Job.HEALTH_SWEEP: "HEALTH_SWEEP_SECONDS",
    Job.PROVISION_TIMEOUT_SWEEP: "PROVISION_TIMEOUT_SWEEP_SECONDS",
    Job.PARKED_COMPUTE: 60,
    Job.WORKSPACE_CLEANUP: 60,
    # Four passes a minute: a start whose worker died is taken over well within the minute.
    Job.LIFECYCLE_REQUEUE: 15,
    Job.RESTART_CONTEXTS: 15,
    Job.ORPHAN_SWEEPER: 60,
    Job.COMPUTE_RECONCILER: "COMPUTE_RECONCILE_SECONDS",
    Job.EC2_ORPHAN_SWEEPER: "COMPUTE_RECONCILE_SECONDS",
    Job.BOOTSTRAP_WATCHER: 30,
    Job.HIBERNATION_MONITOR: "HIBERNATION_SWEEP_SECONDS",
    Job.PHANTOM_BUSY_SWEEP: "PHANTOM_BUSY_SWEEP_SECONDS",
    Job.IMAGE_AUTO_REFRESH: 300,
    Job.ACTIVITY_RETENTION: lambda: int(settings.ACTIVITY_CLEANUP_INTERVAL_HOURS) * 3600,
    Job.PENDING_UPLOADS_SWEEPER: "PENDING_UPLOADS_SWEEP_INTERVAL_SECONDS",
    Job.A2A_QUEUE_SWEEPER: "A2A_QUEUE_SWEEPER_INTERVAL_S",
    Job.MEMORY_SWEEPER: lambda: int(settings.MEMORY_SWEEP_INTERVAL_S) or 300,  # 0: see `conditions`
    Job.MEMORY_OUTBOX: 30,
    Job.MEMORY_EMBED_PENDING: 30,
    Job.DELEGATION_SWEEPER: "DELEGATION_SWEEPER_INTERVAL_S",
    Job.FLEET_SAMPLER: 60,
    Job.ABANDONED_IMPORTS: 300,
    Job.REPAIRS: 30,
    Job.CHANNEL_MANAGER: 30,
    Job.SCHEDULER: "SCHEDULER_INTERVAL_S",
}

# Sweep -> whether it has something to do in this deployment; filled by its room in ready(). Without an entry
# it always has. Beat rings for all: what is not enabled leaves no tick and is not missed.
conditions: dict[Job, Callable[[], bool]] = {}

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def interval_s(job: Job) -> int:
    """Seconds between two ticks of a sweep."""
    interval = INTERVALS[job]
    if callable(interval):
        return interval()
    return interval if isinstance(interval, int) else int(getattr(settings, interval))


def is_enabled(job: Job) -> bool:
    condition = conditions.get(job)
    return condition is None or condition()


def queue_of(job: Job) -> str:
    return QUEUES.get(job, SWEEPS)


def queues() -> list[str]:
    """Every queue that some job is put into."""
    return sorted({*QUEUES.values(), SWEEPS})


def probe_name(queue: str) -> str:
    """What a queue is called on `/admin/liveness`: it lives while its probes come through."""
    return f"queue:{queue}"


def enqueue(job: Job, **ids: Any) -> None:
    """Ring for `job` once the transaction has committed. Arguments are ids as text; the row is the work.

    A lost message costs time, never work: every job has a sweep that finds the row again.
    """
    transaction.on_commit(lambda: _send(job, ids), robust=True)


def _send(job: Job, ids: dict[str, Any]) -> None:
    arguments = {name: str(value) for name, value in ids.items()}
    current_app.signature(job.value, kwargs=arguments).apply_async(queue=queue_of(job), retry=False)


def beat_schedule() -> dict[str, dict[str, Any]]:
    """The static schedule of Celery beat: every sweep, and a probe through every queue.

    All are due when beat starts: a job of every six hours must not wait for six hours of uptime. A tick
    expires with its interval: a stopped worker meets no backlog.
    """
    schedule = {job.value: _entry(job, interval_s(job), queue_of(job)) for job in INTERVALS}
    for queue in queues():
        probe = _entry(Job.QUEUE_PROBE, PROBE_S, queue)
        schedule[f"{Job.QUEUE_PROBE}:{queue}"] = {**probe, "kwargs": {"queue": queue}}
    return schedule


def _entry(job: Job, interval: int, queue: str) -> dict[str, Any]:
    return {
        "task": job.value,
        "schedule": float(interval),
        "last_run_at": _LONG_AGO,
        "options": {"queue": queue, "expires": interval},
    }
