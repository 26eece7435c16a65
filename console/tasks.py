"""Celery shells of the console."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from activity.supervision import supervised
from config.jobs import Job
from console.services.repairs import carry_on, ring_for_open_repairs
from console.services.samples import take_sample


@shared_task(name=Job.REPAIR)
def repair(repair_id: str) -> None:
    carry_on(UUID(repair_id))


@shared_task(name=Job.REPAIRS)
def repairs() -> None:
    supervised(Job.REPAIRS, ring_for_open_repairs)


@shared_task(name=Job.FLEET_SAMPLER)
def fleet_sampler() -> None:
    supervised(Job.FLEET_SAMPLER, lambda: take_sample(timezone.now()))
