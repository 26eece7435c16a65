from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery.beat import ScheduleEntry
from django.db import transaction

from config.celery import app
from config.jobs import INTERVALS, QUEUES, Job, beat_schedule, enqueue, interval_s, queue_of, queues


def messages(valkey: Any, queue: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in valkey.lrange(queue, 0, -1)]


@pytest.mark.django_db(transaction=True)
def test_a_job_is_rung_for_after_the_commit_and_carries_ids_as_text(valkey: Any) -> None:
    run_id = uuid4()
    with transaction.atomic():
        enqueue(Job.PROVISION, run_id=run_id)
        assert messages(valkey, "lifecycle") == []
    (message,) = messages(valkey, "lifecycle")
    assert message["headers"]["task"] == "provisioning.provision"
    _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert kwargs == {"run_id": str(run_id)}


@pytest.mark.django_db(transaction=True)
def test_nothing_is_rung_for_after_a_rollback(valkey: Any) -> None:
    with pytest.raises(RuntimeError):
        with transaction.atomic():
            enqueue(Job.TEARDOWN, run_id=uuid4())
            raise RuntimeError
    assert messages(valkey, "teardown") == []


def test_beat_sends_every_sweep_at_its_interval_and_when_it_starts(settings: Any) -> None:
    settings.HEALTH_SWEEP_SECONDS = 21
    schedule = beat_schedule()
    assert set(schedule) == {job.value for job in INTERVALS} | {f"queue-probe:{one}" for one in queues()}
    entry = ScheduleEntry(name="health-sweep", app=app, **schedule["health-sweep"])
    assert entry.schedule.run_every == timedelta(seconds=21)
    assert entry.options == {"queue": "sweeps", "expires": 21}
    assert all(ScheduleEntry(name=name, app=app, **one).is_due().is_due for name, one in schedule.items())


def test_a_probe_goes_through_each_queue() -> None:
    assert queues() == ["bulk", "delegations", "images", "lifecycle", "sweeps", "teardown"]
    for queue in queues():
        entry = beat_schedule()[f"queue-probe:{queue}"]
        assert (entry["task"], entry["kwargs"], entry["options"]["queue"]) == (
            "queue-probe",
            {"queue": queue},
            queue,
        )


def test_hours_are_seconds(settings: Any) -> None:
    settings.ACTIVITY_CLEANUP_INTERVAL_HOURS = 2
    assert interval_s(Job.ACTIVITY_RETENTION) == 7200


def test_a_job_has_an_interval_or_a_queue_of_its_own() -> None:
    assert set(INTERVALS) | set(QUEUES) | {Job.QUEUE_PROBE} == set(Job)
    assert set(INTERVALS) & set(QUEUES) == set()
    assert {queue_of(job) for job in INTERVALS} == {"sweeps"}


def test_every_interval_is_positive() -> None:
    assert all(interval_s(job) > 0 for job in INTERVALS)


def test_the_application_loses_no_task_with_its_worker() -> None:
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1


def test_every_job_has_a_task() -> None:
    app.loader.import_default_modules()
    assert {job.value for job in Job} <= set(app.tasks)
