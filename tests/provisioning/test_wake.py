"""A message for a sleeping workspace wakes it, once."""

from __future__ import annotations

import pytest

from activity.models import ActivityLog
from provisioning.models import ProvisionRun, RunKind
from tests.a2a.test_send import say
from tests.clients import admin
from tests.conftest import at_once
from tests.provisioning.conftest import register, running, status_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import DeliveryMode, Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)

WAKING = {
    "error": "workspace is waking from hibernation — retry in ~15 seconds",
    "waking": True,
    "retry_after": 15,
}


def asleep(backend, doorbell, **fields) -> Workspace:
    row = running(backend, doorbell, **fields)
    assert admin().post(f"/workspaces/{row.pk}/hibernate").status_code == 200
    return row


def test_a_message_wakes_a_sleeping_workspace(backend, doorbell):
    row = asleep(backend, doorbell)
    answer = say(admin(), row, messageId="first")
    assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (503, WAKING, "15")
    assert ActivityLog.objects.get(message_id="first").status == "error"
    doorbell.work()
    run = ProvisionRun.objects.get(workspace_id=row.pk, kind=RunKind.WAKE)
    assert (run.generation, backend.running(row.pk)) == (3, [3])
    register(backend.specs[-1])
    assert status_of(row) == Status.ONLINE


def test_ten_messages_at_once_start_it_once(backend, doorbell):
    row = asleep(backend, doorbell)
    answers = at_once(*[lambda: say(admin(), row)] * 10)
    assert [answer.status_code for answer in answers] == [503] * 10
    assert [answer.json() for answer in answers] == [WAKING] * 10
    assert {answer.headers["Retry-After"] for answer in answers} == {"15"}
    assert say(admin(), row).json() == WAKING  # as long as it takes
    doorbell.work()
    assert len(backend.specs) == 2
    assert Workspace.objects.get(pk=row.pk).generation == 3
    register(backend.specs[-1])
    assert status_of(row) == Status.ONLINE


def test_below_a_paused_ancestor_nothing_wakes(backend, doorbell):
    parent = running(backend, doorbell)
    row = asleep(backend, doorbell, parent=parent)
    Workspace.objects.filter(pk=parent.pk).update(status=Status.PAUSED)
    answer = say(admin(), row)
    assert answer.status_code == 503
    assert answer.json() == {"error": "workspace has no URL", "status": "hibernated"}
    assert "Retry-After" not in answer.headers
    assert status_of(row) == Status.HIBERNATED


def test_without_a_backend_nothing_wakes(no_backend, doorbell):
    row = WorkspaceFactory(status=Status.HIBERNATED, url="")
    assert say(admin(), row).json() == {"error": "workspace has no URL", "status": "hibernated"}
    assert status_of(row) == Status.HIBERNATED


def test_a_polling_workspace_is_woken_for_its_inbox(backend, doorbell):
    row = asleep(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(delivery_mode=DeliveryMode.POLL)
    assert say(admin(), row).json()["status"] == "queued"
    assert status_of(row) == Status.PROVISIONING
