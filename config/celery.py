"""The Celery application: a doorbell. Rows in PostgreSQL are the work (docs/architecture/overview.md)."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.conf import settings

from config import broker
from config.jobs import beat_schedule

broker.survive_its_loss()

app = Celery("workspace-server")
app.conf.update(
    broker_url=settings.REDIS_URL,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        # Longer than any task may run; recovery never waits for it, leases do.
        "visibility_timeout": 7200,
        "socket_connect_timeout": 3,
        "socket_timeout": 10,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_create_missing_queues=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    beat_schedule=beat_schedule(),
    beat_max_loop_interval=5,
    timezone="UTC",
)
app.autodiscover_tasks()
