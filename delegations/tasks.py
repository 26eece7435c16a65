"""Celery shells: ids in, one verb each."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from activity.supervision import supervised
from config.jobs import Job
from delegations import services

STARTED_AT = timezone.now()  # of this worker: heartbeats were heard at least since then


@shared_task(name=Job.DELEGATE)
def dispatch(delegation_id: str) -> None:
    services.dispatch(delegation_id)


@shared_task(name=Job.DELEGATIONS_OF_REMOVED)
def of_removed(workspace_id: str) -> None:
    services.close_of_removed(UUID(workspace_id))


@shared_task(name=Job.DELEGATION_SWEEPER)
def sweeper() -> None:
    supervised(Job.DELEGATION_SWEEPER, lambda: services.sweep(timezone.now(), up_since=STARTED_AT))
