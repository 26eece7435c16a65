"""Celery shells of the uploads."""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from django.conf import settings

from activity.supervision import supervised
from config.jobs import Job
from uploads import services


@shared_task(name=Job.PENDING_UPLOADS_SWEEPER)
def sweep() -> None:
    retention = timedelta(seconds=settings.PENDING_UPLOADS_ACK_RETENTION_SECONDS)
    supervised(Job.PENDING_UPLOADS_SWEEPER, lambda: services.sweep(retention))
