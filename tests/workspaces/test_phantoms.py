"""Task counts that nothing supports any more."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from activity.models import ActivityLog, MetricCounter
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace
from workspaces.services.phantoms import reset_phantom_busy

pytestmark = pytest.mark.django_db(transaction=True)


def busy(minutes: int | None, **facts) -> Workspace:
    row = WorkspaceFactory(**{"active_tasks": 2, "current_task": "x", **facts})
    if minutes is not None:
        then = timezone.now() - timedelta(minutes=minutes)
        ActivityLog.objects.create(workspace=row, activity_type="task_update", created_at=then)
    return row


def test_silence_of_eleven_minutes_resets_and_nine_do_not(published, valkey):
    silent, never, recent = busy(11), busy(None), busy(9)
    removed = busy(None, status=Status.REMOVED)
    assert [reset_phantom_busy(timezone.now()), reset_phantom_busy(timezone.now())] == [2, 0]
    for row in (silent, never, recent, removed):
        row.refresh_from_db()
    assert [row.active_tasks for row in (silent, never, recent, removed)] == [0, 0, 2, 2]
    assert silent.current_task == ""
    assert silent.idle_since is not None
    assert {(frame.event, frame.workspace_id) for frame in published} == {
        ("TASK_UPDATED", silent.pk),
        ("TASK_UPDATED", never.pk),
    }


def test_racing_sweeps_reset_and_count_each_row_once(valkey):
    for _ in range(30):
        busy(None)
    results = at_once(*[lambda: reset_phantom_busy(timezone.now())] * 5)
    assert sum(results) == 30
    assert MetricCounter.objects.get(name="molecule_phantom_busy_resets_total").value == 30


def test_switched_off_it_leaves_the_counts_alone(settings, valkey):
    settings.PHANTOM_BUSY_SWEEP_DISABLED = True
    busy(None)
    assert reset_phantom_busy(timezone.now()) == 0
