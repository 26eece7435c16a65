"""Celery shells of the org import."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from activity.supervision import supervised
from config.jobs import Job
from orgimport.services.endings import end_abandoned


@shared_task(name=Job.ABANDONED_IMPORTS)
def abandoned_imports() -> None:
    supervised(Job.ABANDONED_IMPORTS, lambda: end_abandoned(timezone.now()))
