"""A doorbell that tests answer themselves: they decide when the executor works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from config.jobs import Job
from delegations.services import execution
from provisioning import dispatch
from tests.a2a.fake_agent import FakeAgent, fake_agent
from tests.doorbell import Doorbell, hung


@pytest.fixture
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> Doorbell:
    return hung(monkeypatch, Doorbell(Job.DELEGATE, Job.DELEGATIONS_OF_REMOVED, Job.A2A_DRAIN))


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
