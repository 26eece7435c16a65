"""An agent that listens, no compute of ours, and a doorbell that tests answer themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from config.jobs import Job
from provisioning import dispatch
from schedules import hooks
from schedules.models import Schedule
from tests.a2a.fake_agent import FakeAgent, fake_agent
from tests.doorbell import Doorbell, hung
from tests.schedules.factories import ScheduleFactory
from tests.workspaces.factories import WorkspaceFactory


class RunsBell(Doorbell):
    def for_runs(self) -> list[UUID]:
        return [UUID(str(ids["schedule_id"])) for job, ids in self.rung if job == Job.SCHEDULE_FIRE]


@pytest.fixture
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> RunsBell:
    bell = RunsBell(Job.SCHEDULE_FIRE, Job.A2A_DRAIN)
    hung(monkeypatch, bell)
    return bell


@pytest.fixture(autouse=True)
def no_compute() -> Iterator[None]:
    """Whether a target lives cannot be verified."""
    dispatch.wire(None)
    yield
    dispatch.choose_again()


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with fake_agent() as one:
        yield one


@pytest.fixture(autouse=True)
def no_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "recent_context", [])
    monkeypatch.setattr(hooks, "answered", [])


def scheduled(agent: FakeAgent, *, workspace: dict[str, Any] | None = None, **fields: Any) -> Schedule:
    """A due schedule of a workspace whose agent is this one."""
    target = WorkspaceFactory(**{**agent.place, **(workspace or {})})
    return ScheduleFactory(workspace=target, **fields)
