"""What every test may use: both services are real, and each test starts from an empty Valkey."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from access import anchoring, credentials, sessions, windows
from activity import tally
from activity.events import Frame
from tests import payloads

atexit.unregister(tally.tally.flush)  # the test database is gone by then

ADMIN_TOKEN = "test-admin-token-of-sufficient-length"


@pytest.fixture(autouse=True)
def _quiet_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """No background thread writes counters into the database of another test."""
    monkeypatch.setattr(tally, "FLUSH_S", 3600.0)


@pytest.fixture(autouse=True)
def _closed(settings: Any) -> None:
    settings.ADMIN_TOKEN = ADMIN_TOKEN
    settings.RATE_LIMIT = settings.AUTH_FAIL_LIMIT = 1_000_000  # all tests come from one address


@pytest.fixture(autouse=True)
def _no_templates(settings: Any, tmp_path: Path) -> None:
    """A catalogue of the test's own, empty unless the test fills it."""
    settings.CONFIGS_DIR = str(tmp_path / "catalogue" / "workspace-configs-templates")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """What a process keeps in mind for seconds is not the next test's."""
    windows.forget_everything()
    sessions.forget_everything()
    credentials.forget_junk()
    anchoring.forget_everything()


@pytest.fixture(autouse=True)
def wrong_events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Whatever a test is about: each event the product emits in it has the mode and the keys of the table."""
    with payloads.checked(monkeypatch) as wrong:
        yield wrong
    assert not wrong


@pytest.fixture
def valkey() -> Iterator[Any]:
    """The real Valkey, emptied."""
    from config.valkey import client

    client().flushdb()
    yield client()
    client().flushdb()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """The frames that left after commit, in order; they are still published for real."""
    from activity import events

    seen: list[Frame] = []
    real = events.publish

    def spy(*frames: Frame, **more: Any) -> Any:
        seen.extend(frames)
        return real(*frames, **more)

    monkeypatch.setattr(events, "publish", spy)
    return seen


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Runs the calls in threads that start together; returns each one's result or exception, in order."""
    barrier = threading.Barrier(len(calls))
    outcomes: list[Any] = [None] * len(calls)

    def run(index: int, call: Callable[[], Any]) -> None:
        barrier.wait(timeout=10)
        try:
            outcomes[index] = call()
        except Exception as error:  # the outcome under test
            outcomes[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(index, call)) for index, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return outcomes
