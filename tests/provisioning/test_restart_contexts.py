"""What an agent is told after a restart: the text, when it is told, and that it is told once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from a2a import dispatch as messages
from a2a import system_messages
from a2a.system_messages import tell
from access.services import save_global_secret, store_secrets
from activity.models import ActivityLog
from config.jobs import Job
from provisioning import services
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import WorkspaceLifecycle
from provisioning.services import Trigger
from provisioning.services.restart_contexts import context_text, ring_for_contexts
from tests.a2a.test_send import Agent
from tests.clients import agent_of
from tests.conftest import at_once
from tests.provisioning.conftest import Doorbell, heartbeat, queued, register, running, status_of
from workspaces.models import DeliveryMode, Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.close()


def texts(agent: Agent) -> list[str]:
    return [body["params"]["message"]["parts"][0]["text"] for _, body in agent.requests]


def back(backend: Any, row: Workspace, agent: Agent) -> None:
    """The agent of the newest start registers and is reached where `agent` listens."""
    Workspace.objects.filter(pk=row.pk).update(url=agent.url)
    assert register(backend.specs[-1]).status_code == 200


def restarted(backend: Any, doorbell: Doorbell, row: Workspace) -> None:
    services.accept_restart(row.pk, {})
    doorbell.work()


def test_the_agent_is_told_once_it_is_back_and_only_then(backend, doorbell, agent):
    row = running(backend, doorbell)
    store_secrets(workspace_id=row.pk, values={"B_KEY": "hidden-b"})
    save_global_secret(key="A_KEY", value="hidden-a")
    save_global_secret(key="ADMIN_TOKEN", value="hidden-c")
    doorbell.rung.clear()
    before = Workspace.objects.get(pk=row.pk)
    restarted(backend, doorbell, row)
    heartbeat(backend.specs[0])  # the old process, still running: no sign of the new one
    assert agent.requests == []
    assert services.is_context_pending(row.pk)
    back(backend, row, agent)
    assert doorbell.rung == [(Job.DELIVER_RESTART_CONTEXT, {"workspace_id": row.pk})]
    doorbell.work()
    ((headers, body),) = agent.requests
    assert headers["Authorization"].startswith("Bearer ")
    assert (body["jsonrpc"], body["method"]) == ("2.0", "message/send")
    message = body["params"]["message"]
    assert message["role"] == "user"
    metadata = {"source": "platform", "kind": "restart_context", "layer": 1, "restart_context": True}
    assert message["metadata"] == metadata
    assert body["params"]["metadata"] == {**metadata, "caller": "system:restart-context"}
    (part,) = message["parts"]
    lines = part["text"].splitlines()
    assert lines[0] == "=== WORKSPACE RESTART CONTEXT ==="
    assert lines[1].startswith("Restart at: 20")
    ended = before.last_heartbeat_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert lines[2].startswith(f"Previous session ended: {ended} (")
    assert lines[2].endswith("s ago)")
    assert lines[3] == "Env vars now available: A_KEY, B_KEY"
    assert lines[4:] == ["=== END RESTART CONTEXT ==="]
    assert "hidden" not in str(body)
    assert not services.is_context_pending(row.pk)
    stored = ActivityLog.objects.get(workspace_id=row.pk)
    assert (stored.status, stored.source_id, stored.response_body) == ("ok", None, agent.answer[1])
    ring_for_contexts(timezone.now())
    doorbell.work()
    assert len(agent.requests) == 1


def test_nobody_at_a_canvas_is_answered(backend, doorbell, agent, published):
    row = running(backend, doorbell)
    restarted(backend, doorbell, row)
    back(backend, row, agent)
    doorbell.work()
    names = [frame.event for frame in published]
    assert "ACTIVITY_LOGGED" in names
    assert "A2A_RESPONSE" not in names


def test_a_first_boot_is_told_nothing(backend, doorbell):
    row = queued()
    doorbell.work()
    register(backend.specs[-1])
    assert not services.is_context_pending(row.pk)
    assert doorbell.rung == []


def test_after_three_quick_restarts_the_agent_is_told_of_the_last_one(backend, doorbell, agent):
    row = running(backend, doorbell)
    for number in range(3):
        store_secrets(workspace_id=row.pk, values={f"KEY_{number}": "x"})
        services.accept_restart(row.pk, {})
    newest = WorkspaceLifecycle.objects.get(pk=row.pk).restart_context
    doorbell.work()
    back(backend, row, agent)
    doorbell.work()
    (text,) = texts(agent)
    assert newest is not None
    assert f"Restart at: {newest['restart_at']}" in text
    assert "KEY_0, KEY_1, KEY_2" in text


def test_a_secret_that_the_waiting_start_will_read_is_named(backend, doorbell):
    row = running(backend, doorbell)
    services.accept_restart(row.pk, {})
    store_secrets(workspace_id=row.pk, values={"LATE": "x"})
    services.request_restart(row.pk, Trigger.MUTATION, "secret:LATE")
    doorbell.work()
    context = WorkspaceLifecycle.objects.get(pk=row.pk).restart_context
    assert context is not None
    assert context["env_keys"] == ["LATE"]
    assert len(backend.specs) == 2


def test_an_automatic_restart_is_told_too(backend, doorbell, agent):
    row = running(backend, doorbell)
    services.request_restart(row.pk, Trigger.MUTATION, "secret")
    doorbell.work()
    back(backend, row, agent)
    doorbell.work()
    assert len(agent.requests) == 1


def test_a_polling_agent_finds_it_in_its_inbox(backend, doorbell):
    row = running(backend, doorbell)
    Workspace.objects.filter(pk=row.pk).update(delivery_mode=DeliveryMode.POLL, delivery_mode_explicit=True)
    restarted(backend, doorbell, row)
    register(backend.specs[-1])
    doorbell.work()
    (inbox,) = agent_of(row.pk).get(f"/workspaces/{row.pk}/activity", type="a2a_receive").json()
    assert inbox["data"]["text"].startswith("=== WORKSPACE RESTART CONTEXT ===")
    assert (inbox["status"], inbox["source_id"]) == ("ok", None)
    assert not services.is_context_pending(row.pk)


def test_what_could_not_be_delivered_is_tried_again_until_it_expires(backend, doorbell, agent):
    row = running(backend, doorbell)
    restarted(backend, doorbell, row)
    register(backend.specs[-1])  # at an address where nobody listens
    doorbell.work()
    assert services.is_context_pending(row.pk)
    Workspace.objects.filter(pk=row.pk).update(url=agent.url)
    assert ring_for_contexts(timezone.now()) == 1
    doorbell.work()
    assert len(agent.requests) == 1
    restarted(backend, doorbell, row)
    register(backend.specs[-1])
    late = timezone.now() + timedelta(hours=2)
    assert ring_for_contexts(late) == 0
    assert WorkspaceLifecycle.objects.get(pk=row.pk).restart_context is None


def test_it_expires_with_the_time_its_start_may_take(backend, doorbell, settings):
    settings.PROVISION_TIMEOUT_SECONDS = 300
    row = running(backend, doorbell)
    restarted(backend, doorbell, row)
    state = WorkspaceLifecycle.objects.get(pk=row.pk)
    assert state.restart_context_expires_at is not None
    left = state.restart_context_expires_at - timezone.now()
    assert timedelta(seconds=240) < left <= timedelta(seconds=300)


def test_two_deliveries_at_once_are_one_turn_of_the_agent(backend, doorbell, agent):
    row = running(backend, doorbell)
    restarted(backend, doorbell, row)
    back(backend, row, agent)
    doorbell.rung.clear()
    agent.gate = threading.Event()
    threading.Timer(1.0, agent.gate.set).start()
    at_once(*[lambda: services.deliver_context(row.pk, tell)] * 4)
    assert len(agent.requests) == 1
    assert not services.is_context_pending(row.pk)


def test_an_agent_that_thinks_for_long_is_not_waited_for(backend, doorbell, agent, monkeypatch):
    monkeypatch.setattr(system_messages, "TURN_S", 0.5)
    row = running(backend, doorbell)
    restarted(backend, doorbell, row)
    back(backend, row, agent)
    agent.gate = threading.Event()
    doorbell.work()
    agent.gate.set()
    assert not services.is_context_pending(row.pk)
    assert ActivityLog.objects.get(workspace_id=row.pk).error_detail == "the agent did not answer in time"
    assert messages.CEILING_S > system_messages.TURN_S


@pytest.mark.parametrize("end", ["declined", "paused"])
def test_a_restart_that_did_not_happen_is_not_told(backend, doorbell, end):
    row = running(backend, doorbell)
    if end == "declined":
        gone = BackendError(ErrorClass.IMAGE_UNAVAILABLE, "no such image")
        backend.failures["ensure_image"] = deque([gone])
        restarted(backend, doorbell, row)
        assert status_of(row) == Status.ONLINE
    else:
        services.accept_restart(row.pk, {})
        services.pause(row.pk, cascade=True, dry_run=False)
    assert not services.is_context_pending(row.pk)


@pytest.mark.parametrize(
    ("away", "shown"),
    [
        (timedelta(hours=2, minutes=14, seconds=9), "2h14m"),
        (timedelta(minutes=5, seconds=3), "5m3s"),
        (timedelta(seconds=38.9), "38s"),
        (timedelta(0), "0s"),
        (timedelta(seconds=-5), "0s"),
    ],
)
def test_how_long_the_agent_was_away_is_said_shortly(away, shown):
    now = timezone.now()
    context = {"restart_at": now.isoformat(), "ended_at": (now - away).isoformat(), "env_keys": []}
    assert f"({shown} ago)" in context_text(context)


def test_without_a_session_or_secrets_the_text_says_so():
    context = {"restart_at": "2026-01-01T00:00:00.000000Z", "ended_at": None, "env_keys": []}
    assert context_text(context).splitlines()[1:4] == [
        "Restart at: 2026-01-01T00:00:00.000000Z",
        "Previous session ended: (no prior session on record)",
        "Env vars now available: (none)",
    ]
