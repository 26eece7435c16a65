from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from activity import health
from activity.models import BackgroundJob
from activity.supervision import subsystems
from tests.clients import anonymous
from tests.outages import database_away, valkey_away


@pytest.fixture(autouse=True)
def _just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test process is old, and no worker belongs to it."""
    monkeypatch.setattr(health, "SERVING_SINCE", timezone.now())


def answer(path: str) -> tuple[int, Any]:
    response = anonymous().get(path)
    return response.status_code, response.json()


def test_health_touches_nothing() -> None:
    with valkey_away():
        assert answer("/health") == (200, {"status": "ok"})  # the database is closed to this test


@pytest.mark.django_db
def test_ready_says_that_both_services_answer(valkey: Any) -> None:
    assert answer("/health/ready") == (200, {"status": "ok", "database": "ok", "redis": "ok"})


@pytest.mark.django_db
def test_a_dead_valkey_is_a_503_that_names_it() -> None:
    with valkey_away():
        assert answer("/health/ready") == (503, {"status": "error", "database": "ok", "redis": "error"})


@pytest.mark.django_db(transaction=True)
def test_a_dead_database_is_a_503_that_names_it(valkey: Any) -> None:
    with database_away():
        assert answer("/health/ready") == (503, {"status": "error", "database": "error", "redis": "ok"})


@pytest.mark.parametrize("sha", ["dev", "0a1b2c3"])
def test_the_build_is_named(settings: Any, sha: str) -> None:
    settings.GIT_SHA = sha
    assert answer("/buildinfo") == (200, {"git_sha": sha})


@pytest.mark.django_db
def test_work_that_nobody_does_is_a_503_that_names_it(valkey: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SERVING_SINCE", timezone.now() - timedelta(days=7))
    now = timezone.now()
    for name in subsystems():
        BackgroundJob.objects.create(name=name, last_tick_at=now)
    assert answer("/health/ready") == (200, {"status": "ok", "database": "ok", "redis": "ok"})

    long_ago = now - timedelta(days=1)
    late = BackgroundJob.objects.filter(name__in=["health-sweep", "queue:lifecycle"])
    late.update(last_tick_at=long_ago)
    assert answer("/health/ready") == (
        503,
        {
            "status": "error",
            "database": "ok",
            "redis": "ok",
            "jobs": ["health-sweep"],
            "queues": ["queue:lifecycle"],
        },
    )
