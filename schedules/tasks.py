"""Celery shells: ids in, one verb each."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from activity.supervision import supervised
from config.jobs import Job
from schedules import services


@shared_task(name=Job.SCHEDULE_FIRE)
def fire(schedule_id: str) -> None:
    services.fire(UUID(schedule_id))


@shared_task(name=Job.SCHEDULER)
def scheduler() -> None:
    supervised(Job.SCHEDULER, lambda: services.tick(timezone.now()))
