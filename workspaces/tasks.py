"""Celery shells of the room of the workspaces."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from activity.supervision import supervised
from config.jobs import Job
from workspaces.services.phantoms import reset_phantom_busy


@shared_task(name=Job.PHANTOM_BUSY_SWEEP)
def phantom_busy_sweep() -> None:
    supervised(Job.PHANTOM_BUSY_SWEEP, lambda: reset_phantom_busy(timezone.now()))
