"""An agent that listens, no compute of ours, and a doorbell that tests answer themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from a2a.services.drain import drain
from config import jobs
from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from tests.a2a.fake_agent import FakeAgent, fake_agent


@pytest.fixture(autouse=True)
def no_compute() -> Iterator[None]:
    """Whether a target lives cannot be verified, unless a test wires a backend."""
    dispatch.wire(None)
    yield
    dispatch.choose_again()


@pytest.fixture
def backend(no_compute: None) -> InMemoryBackend:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    return memory


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with fake_agent() as one:
        yield one


class Doorbell:
    """What was rung for, in order. `work()` is a worker that drains what it was asked to."""

    def __init__(self) -> None:
        self.rung: list[tuple[Job, dict[str, Any]]] = []

    def ring(self, job: Job, ids: dict[str, Any]) -> None:
        self.rung.append((job, ids))

    def work(self) -> None:
        while self.rung:
            job, ids = self.rung.pop(0)
            if job == Job.A2A_DRAIN:
                drain(UUID(str(ids["workspace_id"])))


@pytest.fixture(autouse=True)
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> Doorbell:
    bell = Doorbell()
    monkeypatch.setattr(jobs, "_send", bell.ring)
    return bell
