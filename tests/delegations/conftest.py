"""A doorbell that tests answer themselves: they decide when the executor works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from a2a.services.drain import drain
from config import jobs
from config.jobs import Job
from delegations import services
from delegations.services import execution
from provisioning import dispatch
from tests.a2a.fake_agent import FakeAgent, fake_agent


class Doorbell:
    """What was rung for, in order. `work()` is a worker that answers until nothing rings."""

    def __init__(self) -> None:
        self.rung: list[tuple[Job, dict[str, Any]]] = []

    def ring(self, job: Job, ids: dict[str, Any]) -> None:
        self.rung.append((job, ids))

    def work(self) -> None:
        while self.rung:
            job, ids = self.rung.pop(0)
            match job:
                case Job.DELEGATE:
                    services.dispatch(str(ids["delegation_id"]))
                case Job.DELEGATIONS_OF_REMOVED:
                    services.close_of_removed(UUID(str(ids["workspace_id"])))
                case Job.A2A_DRAIN:
                    drain(UUID(str(ids["workspace_id"])))


@pytest.fixture
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> Doorbell:
    bell = Doorbell()
    monkeypatch.setattr(jobs, "_send", bell.ring)
    return bell


@pytest.fixture(autouse=True)
def no_compute() -> Iterator[None]:
    """Whether a callee lives cannot be verified."""
    dispatch.wire(None)
    yield
    dispatch.choose_again()


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with fake_agent() as one:
        yield one


@pytest.fixture
def at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt comes without its pause."""
    monkeypatch.setattr(execution, "PAUSE_S", 0.0)
