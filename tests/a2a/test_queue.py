"""The queue: kept once, sent once at a time, in order, and brought to an end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from a2a.callers import CANVAS, system_caller, workspace_caller
from a2a.models import QueueItem, QueueStatus
from a2a.results import Delivered, Kind, Result
from a2a.services import queue
from a2a.services.drain import drain, fate_of
from a2a.services.queue import Fate
from a2a.services.sweeps import sweep_queue
from activity.models import ActivityLog
from tests.a2a.fake_agent import answers, echo, fake_agent, hangs_up
from tests.a2a.talking import as_workspace, at, message, say
from tests.clients import admin, anonymous
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)
BUSY = answers({"error": "one at a time", "busy": True}, 503)


def envelope(text: str, message_id: str | None = None, **params: Any) -> dict[str, Any]:
    body = message(text, messageId=message_id or str(uuid4()), role="user", params=params)
    return {"jsonrpc": "2.0", "id": "1", **body}


def waiting(target: Workspace, text: str = "hi", **fields: Any) -> QueueItem:
    item = queue.enqueue_message(target.pk, envelope(text), fields.pop("caller", CANVAS)).item
    QueueItem.objects.filter(pk=item.pk).update(**fields)
    item.refresh_from_db()
    return item


def beat(target: Workspace, active: int = 0) -> None:
    body = {"workspace_id": str(target.pk), "active_tasks": active, "uptime_seconds": 5, "error_rate": 0}
    assert as_workspace(target).post("/registry/heartbeat", body).status_code == 200


def swept(**expected: int) -> None:
    done = {name: number for name, number in sweep_queue(timezone.now()).items() if number}
    assert done == expected


def test_a_heartbeat_with_a_free_hand_drains_one(agent, doorbell):
    target = at(agent)
    for text in ("a", "b"):
        waiting(target, text)
    beat(target, active=1)
    doorbell.work()
    assert agent.requests == []
    beat(target)
    doorbell.work()
    assert [seen.text for seen in agent.requests] == ["a"]
    beat(target)
    doorbell.work()
    assert [seen.text for seen in agent.requests] == ["a", "b"]
    assert set(QueueItem.objects.values_list("status", flat=True)) == {"completed"}


def test_more_hands_drain_more(agent):
    target = at(agent, max_concurrent_tasks=3)
    for number in range(5):
        waiting(target, str(number))
    assert drain(target.pk) == 3
    Workspace.objects.update(active_tasks=3)
    assert drain(target.pk) == 0


def test_the_important_and_the_older_come_first(agent):
    target = at(agent, max_concurrent_tasks=8)
    waiting(target, "second")
    waiting(target, "third")
    waiting(target, "first", priority=100)
    waiting(target, "never", expires_at=timezone.now() - timedelta(seconds=1))
    drain(target.pk)
    assert [seen.text for seen in agent.requests] == ["first", "second", "third"]
    swept(expired=1)
    dropped = QueueItem.objects.get(status="dropped")
    assert dropped.last_error == "expired before delivery"


def test_busy_twice_then_free_is_delivered_once(agent):
    target = at(agent)
    agent.behaves(BUSY, BUSY, echo)
    item = waiting(target)
    for _ in range(2):
        drain(target.pk)
        item.refresh_from_db()
        assert (item.status, item.attempts) == ("queued", 0)
        assert timedelta(seconds=3) < item.next_attempt_at - timezone.now() <= timedelta(seconds=5)
        assert drain(target.pk) == 0  # not before its time
        QueueItem.objects.update(next_attempt_at=None)
    drain(target.pk)
    item.refresh_from_db()
    assert (item.status, item.attempts) == ("completed", 1)
    assert item.response_body["result"]["parts"][0]["text"] == "echo: hi"


def test_two_drains_send_each_message_once(agent):
    target = at(agent, max_concurrent_tasks=8)
    for number in range(6):
        waiting(target, str(number))
    at_once(lambda: drain(target.pk), lambda: drain(target.pk), lambda: drain(target.pk))
    drain(target.pk)
    assert sorted(seen.text for seen in agent.requests) == [str(number) for number in range(6)]


@pytest.mark.parametrize("is_broken", [True, False])
def test_five_failures_are_the_end(agent, is_broken: bool):
    target = at(agent)
    agent.behaves(hangs_up)
    if not is_broken:
        agent.close()
    item = waiting(target)
    for _ in range(6):
        QueueItem.objects.update(next_attempt_at=None)
        drain(target.pk)
    item.refresh_from_db()
    assert (item.status, item.attempts) == ("failed", 5)
    assert item.last_error
    assert not is_broken or len(agent.requests) == 5


def test_healthy_agents_behind_a_gateway_burn_no_attempts(agent):
    target = at(agent, last_heartbeat_at=timezone.now())
    agent.behaves(answers(b"", 502))
    item = waiting(target)
    for _ in range(6):
        QueueItem.objects.update(next_attempt_at=None)
        drain(target.pk)
    item.refresh_from_db()
    assert (item.status, item.attempts) == ("queued", 0)
    QueueItem.objects.update(next_attempt_at=None, settling_since=timezone.now() - timedelta(seconds=181))
    drain(target.pk)
    item.refresh_from_db()
    assert item.status == "dropped"


def test_a_refusal_is_final(agent):
    target = at(agent)
    agent.behaves(answers({"error": "no"}, 400))
    item = waiting(target)
    drain(target.pk)
    item.refresh_from_db()
    assert (item.status, item.last_error) == ("failed", "no")
    other = waiting(target, caller=workspace_caller(WorkspaceFactory(parent=WorkspaceFactory()).pk))
    drain(target.pk)
    other.refresh_from_db()
    assert other.status == "failed"
    assert len(agent.requests) == 1


def test_a_dead_senders_message_comes_back_with_its_attempt_counted(agent):
    target = at(agent)
    item = waiting(target)
    assert queue.claim(target.pk) is not None
    assert drain(target.pk) == 0  # its hand is taken
    QueueItem.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    swept(returned=1)
    drain(target.pk)
    item.refresh_from_db()
    assert (item.status, item.attempts) == ("completed", 2)
    assert agent.requests[0].headers["x-a2a-redelivery"] == "2"


def test_a_late_sender_writes_nothing(agent):
    target = at(agent)
    waiting(target)
    claimed = queue.claim(target.pk)
    assert claimed is not None
    QueueItem.objects.update(status="queued", lease_expires_at=None)
    assert queue.finish(claimed, Fate(QueueStatus.FAILED, "late"), None) is None
    assert QueueItem.objects.get().status == "queued"


def test_an_expired_one_does_not_swallow_its_successor(agent):
    target = at(agent)
    body = envelope("hi", "m-1")
    first = queue.enqueue_message(target.pk, body, CANVAS).item
    QueueItem.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    second = queue.enqueue_message(target.pk, body, CANVAS).item
    assert first.pk != second.pk
    first.refresh_from_db()
    assert (first.status, first.last_error) == ("dropped", "superseded")
    assert queue.enqueue_message(target.pk, body, CANVAS).item.pk == second.pk
    drain(target.pk)
    assert len(agent.requests) == 1


@pytest.mark.parametrize(
    ("given", "is_set"), [(60, True), (0, False), (-1, False), ("x", False), (True, False)]
)
def test_a_message_says_how_long_it_is_worth_something(given: Any, is_set: bool):
    target = WorkspaceFactory()
    item = queue.enqueue_message(target.pk, envelope("hi", expires_in_seconds=given), CANVAS).item
    assert (item.expires_at is not None) is is_set


def test_a_url_that_changed_is_the_one_called(agent):
    target = at(agent)
    waiting(target)
    with fake_agent() as other:
        Workspace.objects.filter(pk=target.pk).update(url=other.url)
        drain(target.pk)
        assert (len(agent.requests), len(other.requests)) == (0, 1)


def test_nothing_overtakes_the_first_turn_after_a_restart(agent, monkeypatch):
    from a2a.services import drain as module

    target = at(agent)
    waiting(target)
    monkeypatch.setattr(module, "is_context_pending", lambda one: one == target.pk)
    assert drain(target.pk) == 0
    monkeypatch.undo()
    assert drain(target.pk) == 1


def test_a_canvas_message_ends_on_its_own_row_with_one_event(agent, published):
    target = at(agent)
    agent.behaves(hangs_up, echo)
    assert say(target, messageId="m-1").status_code == 202
    drain(target.pk)
    row = ActivityLog.objects.get()
    assert (row.status, row.response_body["result"]["parts"][0]["text"]) == ("ok", "echo: hi")
    assert row.duration_ms is not None
    assert [one.event for one in published] == ["ACTIVITY_LOGGED", "A2A_RESPONSE"]


def test_a_canvas_message_that_is_given_up_says_so(agent, published):
    target = at(agent)
    agent.behaves(hangs_up)
    say(target, messageId="m-1")
    for _ in range(5):
        QueueItem.objects.update(next_attempt_at=None)
        drain(target.pk)
    row = ActivityLog.objects.get()
    assert (row.status, bool(row.error_detail)) == ("error", True)
    assert [one.event for one in published] == ["ACTIVITY_LOGGED"]


def test_a_systems_message_is_nobodys_chat(agent, published):
    target = at(agent)
    item = waiting(target, caller=system_caller("webhook:github"))
    assert (item.caller_id, item.caller_kind, item.caller_label) == (None, "system", "webhook:github")
    drain(target.pk)
    row = ActivityLog.objects.get()
    assert (row.source_id, row.status) == (None, "ok")
    assert [one.event for one in published] == ["ACTIVITY_LOGGED"]


def test_the_sweep_rings_for_whoever_has_a_free_hand(agent, doorbell):
    target = at(agent, last_heartbeat_at=timezone.now())
    silent = at(agent, last_heartbeat_at=timezone.now() - timedelta(hours=1))
    waiting(target)
    waiting(silent)
    swept(drained=1)
    doorbell.work()
    assert len(agent.requests) == 1


def test_old_ends_are_purged(agent):
    target = at(agent)
    waiting(target, status="completed", completed_at=timezone.now() - timedelta(days=8))
    waiting(target, status="completed", completed_at=timezone.now())
    swept(purged=1)


def test_who_may_ask_what_became_of_it(agent):
    agent.behaves(hangs_up, echo)
    sender, target, third = WorkspaceFactory(), at(agent), WorkspaceFactory()
    queue_id = say(target, api=as_workspace(sender)).json()["queue_id"]
    path = f"/workspaces/{target.pk}/a2a/queue/{queue_id}"
    shown = as_workspace(sender).get(path).json()
    assert set(shown) == {"queue_id", "workspace_id", "status", "priority", "attempts", "enqueued_at"}
    assert (shown["status"], shown["priority"], shown["attempts"]) == ("queued", 50, 0)
    drain(target.pk)
    for api in (as_workspace(sender), as_workspace(target), admin()):
        body = api.get(path).json()
        assert isinstance(body["response_body"], dict)
        assert not {"body", "caller_id"} & set(body)
    assert anonymous().get(path).status_code == 401
    for api, one in ((as_workspace(third), path), (admin(), path.replace(str(target.pk), str(sender.pk)))):
        answer = api.get(one)
        assert (answer.status_code, answer.json()) == (404, {"error": "queue item not found"})
    assert admin().get(f"/workspaces/{target.pk}/a2a/queue/junk").json() == {"error": "invalid queue id"}


def test_an_operator_drops_what_is_stale(agent):
    target, other = at(agent), at(agent)
    old = timezone.now() - timedelta(hours=2)
    waiting(target, enqueued_at=old)
    waiting(other, enqueued_at=old, last_error="busy")
    waiting(target)
    path = "/admin/a2a-queue/drop-stale"
    assert anonymous().post(path).status_code == 401
    for bad in ("0", "abc", "-1", ""):
        answer = admin().post(f"{path}?max_age_minutes={bad}")
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "max_age_minutes must be a positive integer"},
        )
    assert admin().post(f"{path}?workspace_id=junk").status_code == 400
    assert admin().post(f"{path}?workspace_id={target.pk}").json() == {"dropped": 1}
    assert admin().post(path).json() == {"dropped": 1}
    assert admin().post(path).json() == {"dropped": 0}
    reasons = QueueItem.objects.filter(status="dropped").values_list("last_error", flat=True)
    assert all("dropped by an operator" in reason for reason in reasons)
    assert any(reason.startswith("busy; ") for reason in reasons)


@pytest.mark.parametrize(
    ("kind", "delivered", "status"),
    [
        (Kind.ANSWER, Delivered.YES, "completed"),
        (Kind.RPC_ERROR, Delivered.YES, "completed"),
        (Kind.TASK_OPEN, Delivered.YES, "completed"),
        (Kind.QUEUED_POLL, Delivered.YES, "completed"),
        (Kind.LOST_RESPONSE, Delivered.YES, "completed"),
        (Kind.BUSY, Delivered.NO, "queued"),
        (Kind.BUSY, Delivered.UNKNOWN, "queued"),
        (Kind.SETTLING, Delivered.NO, "queued"),
        (Kind.WAKING, Delivered.NO, "queued"),
        (Kind.DEAD, Delivered.NO, "queued"),
        (Kind.UNREACHABLE, Delivered.NO, "queued"),
        (Kind.DENIED, Delivered.NO, "failed"),
        (Kind.INVALID, Delivered.NO, "failed"),
        (Kind.AGENT_ERROR, Delivered.YES, "failed"),
    ],
)
def test_what_each_outcome_means_for_a_queued_message(kind: Kind, delivered: Delivered, status: str):
    result = Result(kind, delivered, 500, error="reason")
    fate = fate_of(QueueItem(attempts=1), result, now=timezone.now(), is_fresh=True)
    assert fate.status == status
    assert fate.gives_back == (
        status == "queued" and delivered == Delivered.NO and kind not in {"dead", "unreachable"}
    )
    if delivered == Delivered.UNKNOWN:
        assert fate_of(QueueItem(attempts=5), result, now=timezone.now(), is_fresh=True).status == "failed"
