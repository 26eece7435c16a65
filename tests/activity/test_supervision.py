"""Background jobs: one body per interval, every tick on record, the page that shows them."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from activity import supervision
from activity.models import BackgroundJob, MetricCounter
from activity.supervision import overdue, subsystems, supervised, tick
from activity.tasks import queue_probe
from config import jobs
from config.jobs import INTERVALS, Job, interval_s, is_enabled, queues
from config.locks import try_lock
from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db(transaction=True)
JOB = Job.HEALTH_SWEEP


def rewind(job: Job, seconds: float) -> None:
    """As if the last tick had been that long ago."""
    then = timezone.now() - timedelta(seconds=seconds)
    BackgroundJob.objects.filter(pk=job).update(last_started_at=then, last_tick_at=then)


def runs(outcome: str) -> int:
    labels = f'job="{JOB}",outcome="{outcome}"'
    found = MetricCounter.objects.filter(name="molecule_job_runs_total", labels=labels).first()
    return found.value if found else 0


def test_a_tick_is_on_record() -> None:
    assert supervised(JOB, lambda: 42) == 42
    row = BackgroundJob.objects.get(pk=JOB)
    assert row.last_started_at is not None
    assert row.last_success_at is not None
    assert (row.runs, row.errors, row.last_error) == (1, 0, None)
    assert (runs("ok"), runs("error")) == (1, 0)


@pytest.mark.parametrize("is_known", [False, True], ids=["first tick ever", "later tick"])
def test_of_schedulers_that_ring_at_once_one_runs_the_body(is_known: bool) -> None:
    if is_known:
        supervised(JOB, lambda: None)
        rewind(JOB, 3600)
    bodies: list[int] = []
    at_once(*[lambda: supervised(JOB, lambda: bodies.append(1))] * 6)
    assert bodies == [1]


def test_a_second_ring_within_the_interval_is_ignored() -> None:
    supervised(JOB, lambda: None)
    assert supervised(JOB, lambda: pytest.fail("ran twice")) is None
    rewind(JOB, interval_s(JOB) * 0.95)
    assert supervised(JOB, lambda: "next") == "next"


def test_a_run_that_lasts_longer_than_its_interval_is_not_overlapped() -> None:
    running, finish = threading.Event(), threading.Event()

    def long() -> str:
        running.set()
        assert finish.wait(timeout=10)
        return "long"

    def impatient() -> Any:
        assert running.wait(timeout=10)
        rewind(JOB, 3600)
        try:
            return supervised(JOB, lambda: "overlapped")
        finally:
            finish.set()

    assert at_once(lambda: supervised(JOB, long), impatient) == ["long", None]


def test_an_exception_is_recorded_counted_and_over_with_the_next_tick() -> None:
    def fail() -> None:
        raise RuntimeError("sweep failed")

    assert supervised(JOB, fail) is None
    row = BackgroundJob.objects.get(pk=JOB)
    assert (row.runs, row.errors, row.last_error) == (1, 1, "RuntimeError: sweep failed")
    assert row.last_success_at is None
    assert (runs("ok"), runs("error")) == (0, 1)

    rewind(JOB, 3600)
    assert supervised(JOB, lambda: "well") == "well"
    row.refresh_from_db()
    assert (row.runs, row.errors, row.last_error) == (2, 1, None)


def test_one_failing_job_does_not_stop_another() -> None:
    def fail() -> None:
        raise RuntimeError

    supervised(JOB, fail)
    assert supervised(Job.LIVENESS_BACKSTOP, lambda: "runs") == "runs"


def test_a_failed_run_frees_its_lock() -> None:
    def fail() -> None:
        raise RuntimeError

    supervised(JOB, fail)
    with try_lock(f"sweep:{JOB}") as mine:
        assert mine


def test_a_long_run_ticks_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "RUN_TICK_S", 0.02)

    def last_tick() -> Any:
        return BackgroundJob.objects.values_list("last_tick_at", flat=True).get(pk=JOB)

    def long() -> None:
        began = last_tick()
        eventually(lambda: last_tick() > began)

    supervised(JOB, long)
    row = BackgroundJob.objects.get(pk=JOB)
    assert row.last_error is None
    assert row.last_tick_at > row.last_started_at


# --- What is late

NOW = timezone.now()
LONG_AGO = NOW - timedelta(days=7)


def ticked(name: str, seconds_ago: float) -> None:
    then = NOW - timedelta(seconds=seconds_ago)
    BackgroundJob.objects.update_or_create(pk=name, defaults={"last_tick_at": then})


def test_what_ticks_in_time_is_not_late() -> None:
    for name, standing in subsystems().items():
        ticked(name, 2 * standing["expected_interval_seconds"])
    assert overdue(NOW, since=LONG_AGO) == ([], [])


def test_a_sweep_a_loop_and_a_queue_that_stopped_are_late() -> None:
    for name in subsystems():
        ticked(name, 0)
    ticked(JOB, 3 * interval_s(JOB) + 61)
    ticked("broadcaster", 3 * 10 + 61)
    ticked("queue:lifecycle", 301)
    assert overdue(NOW, since=LONG_AGO) == (["health-sweep", "broadcaster"], ["queue:lifecycle"])
    assert overdue(NOW, since=NOW - timedelta(seconds=30)) == ([], [])


def test_what_never_ticked_is_late_once_it_had_its_chance() -> None:
    jobs, late_queues = overdue(NOW, since=LONG_AGO)
    assert set(jobs) | set(late_queues) == set(subsystems())


def test_a_probe_that_came_through_says_that_its_queue_is_drained() -> None:
    assert subsystems()["queue:lifecycle"]["stale"]
    for _ in range(2):
        queue_probe("lifecycle")
    assert not subsystems()["queue:lifecycle"]["stale"]
    assert subsystems()["queue:teardown"]["stale"]


def test_a_loop_ticks_in_one_row() -> None:
    for _ in range(3):
        tick("broadcaster")
    assert BackgroundJob.objects.filter(pk="broadcaster").count() == 1


# --- GET /admin/liveness


def page() -> dict[str, Any]:
    found: dict[str, Any] = admin().get("/admin/liveness").json()["subsystems"]
    return found


def test_the_page_names_every_job_before_its_first_tick() -> None:
    found = page()
    assert set(found) == {job.value for job in INTERVALS if is_enabled(job)} | {
        "broadcaster",
        *(f"queue:{queue}" for queue in queues()),
    }
    assert found[JOB] == {
        "last_tick_at": None,
        "seconds_ago": None,
        "expected_interval_seconds": interval_s(JOB),
        "stale": True,
        "last_error": None,
    }


def test_a_sweep_without_a_use_here_is_not_reported_not_missed_and_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(jobs.conditions, JOB, lambda: False)
    assert supervised(JOB, lambda: pytest.fail("ran")) is None
    assert JOB not in page()
    assert JOB not in overdue(NOW, since=LONG_AGO)[0]
    monkeypatch.setitem(jobs.conditions, JOB, lambda: True)
    assert JOB in page()
    assert supervised(JOB, lambda: "runs") == "runs"


def test_a_job_that_ticks_is_fresh_and_one_that_stopped_is_stale() -> None:
    supervised(JOB, lambda: None)
    fresh = page()[JOB]
    assert (fresh["stale"], fresh["seconds_ago"]) == (False, 0)
    assert fresh["last_tick_at"].endswith("Z")
    rewind(JOB, 2 * interval_s(JOB) + 2)
    stale = page()[JOB]
    assert stale["stale"]
    assert stale["seconds_ago"] == 2 * interval_s(JOB) + 2


def test_the_page_is_an_operators() -> None:
    assert anonymous().get("/admin/liveness").status_code == 401
    assert agent_of(WorkspaceFactory().pk).get("/admin/liveness").status_code == 401
