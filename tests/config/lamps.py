"""Tasks for a worker of a test: each leaves a file as it begins, and another as it ends."""

from __future__ import annotations

import time
from pathlib import Path

from celery import shared_task


@shared_task(name="test.lamp")
def lamp(name: str, seconds: float) -> None:
    Path(f"{name}.lit").touch()
    time.sleep(seconds)
    Path(f"{name}.out").touch()
