"""Celery shells: ids in, one verb each."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from activity.supervision import supervised
from chat_channels import services
from config.jobs import Job


@shared_task(name=Job.CHANNEL_DELIVER)
def deliver(message_id: str) -> None:
    services.deliver(UUID(message_id))


@shared_task(name=Job.CHANNEL_MANAGER)
def manager() -> None:
    supervised(Job.CHANNEL_MANAGER, lambda: services.sweep(timezone.now()))
