"""An agent that listens, no compute of ours, and a doorbell that tests answer themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from tests.a2a.fake_agent import FakeAgent, fake_agent
from tests.doorbell import Doorbell, hung


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


@pytest.fixture(autouse=True)
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> Doorbell:
    return hung(monkeypatch, Doorbell(Job.A2A_DRAIN))
