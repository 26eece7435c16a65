"""Celery shells: ids in, one verb each."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from a2a.services.drain import drain as drain_queue
from a2a.services.sweeps import sweep_queue
from activity.supervision import supervised
from config.jobs import Job


@shared_task(name=Job.A2A_DRAIN)
def drain(workspace_id: str) -> None:
    drain_queue(UUID(workspace_id))


@shared_task(name=Job.A2A_QUEUE_SWEEPER)
def queue_sweeper() -> None:
    supervised(Job.A2A_QUEUE_SWEEPER, lambda: sweep_queue(timezone.now()))
