"""Celery shells: one verb each."""

from __future__ import annotations

from celery import shared_task

from activity.supervision import supervised
from config.jobs import Job
from memory.services import forget_expired
from memory.services.meaning import embed_pending
from memory.services.outbox import deliver
from memory_store import services as store


@shared_task(name=Job.MEMORY_SWEEPER)
def sweeper() -> None:
    supervised(Job.MEMORY_SWEEPER, lambda: forget_expired() + store.forget_expired())


@shared_task(name=Job.MEMORY_DELIVER)
def deliver_now() -> None:
    deliver()


@shared_task(name=Job.MEMORY_EMBED_PENDING)
def embed() -> None:
    supervised(Job.MEMORY_EMBED_PENDING, embed_pending)


@shared_task(name=Job.MEMORY_OUTBOX)
def outbox() -> None:
    supervised(Job.MEMORY_OUTBOX, deliver)
