"""Schedules for tests that are about what becomes of them."""

from __future__ import annotations

from datetime import UTC, datetime

from factory import Sequence, SubFactory
from factory.django import DjangoModelFactory

from schedules.models import Schedule
from tests.workspaces.factories import WorkspaceFactory

PAST = datetime(2026, 1, 1, tzinfo=UTC)


class ScheduleFactory(DjangoModelFactory[Schedule]):
    """One that has been due for long."""

    class Meta:
        model = Schedule

    workspace = SubFactory(WorkspaceFactory)
    name = Sequence(lambda number: f"schedule {number}")
    cron_expr = "*/5 * * * *"
    prompt = "report"
    next_run_at = PAST
