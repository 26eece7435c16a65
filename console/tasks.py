"""Celery shells of the console."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from activity.supervision import supervised
from config.jobs import Job
from console.services.samples import take_sample


@shared_task(name=Job.FLEET_SAMPLER)
def fleet_sampler() -> None:
    supervised(Job.FLEET_SAMPLER, lambda: take_sample(timezone.now()))
