"""Celery shells of the activity room."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from activity.retention import prune
from activity.supervision import supervised, tick
from config.jobs import Job, probe_name


@shared_task(name=Job.ACTIVITY_RETENTION)
def activity_retention() -> None:
    supervised(Job.ACTIVITY_RETENTION, lambda: prune(timezone.now()))


@shared_task(name=Job.QUEUE_PROBE)
def queue_probe(queue: str) -> None:
    """Came through its queue: somebody drains it."""
    tick(probe_name(queue))
