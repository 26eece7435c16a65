from typing import Any

from celery.signals import worker_process_shutdown
from django.apps import AppConfig


class ActivityConfig(AppConfig):
    name = "activity"

    def ready(self) -> None:
        worker_process_shutdown.connect(_flush, weak=False)


def _flush(**_: Any) -> None:
    """A worker's child ends without the interpreter's exit hooks."""
    from activity.tally import tally

    tally.flush()
