"""What verbs ring for, and a worker that does it when a test says so."""

from __future__ import annotations

from typing import Any

import pytest

from config import jobs
from config.celery import app
from config.jobs import Job


class Doorbell:
    """What was rung for, in order. `work()` runs the tasks of the jobs it answers until nothing rings."""

    def __init__(self, *answered: Job) -> None:
        self.rung: list[tuple[Job, dict[str, Any]]] = []
        self._answered = answered

    def ring(self, job: Job, ids: dict[str, Any]) -> None:
        self.rung.append((job, ids))

    def work(self) -> None:
        while self.rung:
            job, ids = self.rung.pop(0)
            if job in self._answered:
                app.tasks[job.value](**{key: str(value) for key, value in ids.items()})


def hung(monkeypatch: pytest.MonkeyPatch, bell: Doorbell) -> Doorbell:
    """In the place of the broker, for a test."""
    app.loader.import_default_modules()  # every room's tasks, as a worker does when it starts
    monkeypatch.setattr(jobs, "_send", bell.ring)
    return bell
