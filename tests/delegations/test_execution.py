"""The executor, against an agent that really listens: one message per delegation, whatever happens."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.utils import timezone

from a2a.models import QueueItem
from a2a.results import Delivered, Kind, Result
from a2a.services.drain import drain
from activity.models import ActivityLog, StructureEvent
from config import persistence
from config.leases import Keeper
from delegations import services
from delegations.leases import keeper, renew
from delegations.models import Delegation
from delegations.services import execution
from delegations.services.execution import LOST, verdict_on
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from tests.a2a.fake_agent import FakeAgent, answers, breaks_off, echo, hangs_up, said, waits
from tests.clients import admin, agent_of
from tests.conftest import at_once
from tests.delegations.factories import delegated, feed, fresh, inbox, pair, told
from tests.outages import statements_fail
from tests.waiting import eventually
from workspaces.models import DeliveryMode, Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def given_to(agent: FakeAgent, **fields: Any) -> Delegation:
    caller, callee = pair(**agent.place)
    return delegated(caller, callee, **fields)


def test_a_delegation_runs_to_its_answer(agent, doorbell):
    row = given_to(agent)
    doorbell.work()
    (seen,) = agent.requests
    assert seen.message == {
        "role": "user",
        "messageId": row.pk,
        "parts": [{"kind": "text", "text": "count the beans"}],
        "metadata": {"delegation_id": row.pk},
    }
    stored = fresh(row)
    assert (stored.status, stored.result_preview) == ("completed", "echo: count the beans")
    assert (stored.delivery, stored.lease_expires_at, stored.retry_count) == ("direct", None, 0)
    assert told(row.caller_id) == ["SENT", "STATUS:dispatched", "COMPLETE"]
    assert feed(row.caller_id, "delegate").count() == feed(row.caller_id).count() == 1
    assert inbox(row.caller_id).count() == 1
    received = ActivityLog.objects.get(workspace_id=row.callee_id)
    assert (received.source_id, received.status, received.activity_type) == (
        row.caller_id,
        "ok",
        "a2a_receive",
    )


def test_a_doubled_ring_sends_once(agent, doorbell):
    row = given_to(agent)
    at_once(*(lambda: services.dispatch(row.pk),) * 4)
    services.dispatch(row.pk)
    assert len(agent.requests) == 1
    assert fresh(row).status == "completed"


def test_a_polling_callee_has_it_in_its_inbox_and_completes_it_later(doorbell):
    caller, callee = pair(delivery_mode=DeliveryMode.POLL)
    row = delegated(caller, callee)
    doorbell.work()
    stored = fresh(row)
    assert (stored.status, stored.delivery, stored.shown) == ("dispatched", "poll", "queued")
    (message,) = agent_of(callee.pk).get(f"/workspaces/{callee.pk}/activity", type="a2a_receive").json()
    assert message["request_body"]["params"]["message"]["metadata"] == {"delegation_id": row.pk}
    path = f"/workspaces/{callee.pk}/delegations/{row.pk}/update"
    agent_of(callee.pk).post(path, {"status": "completed", "response_preview": "42 beans"})
    assert (fresh(row).status, fresh(row).result_preview) == ("completed", "42 beans")
    assert told(caller.pk) == ["SENT", "STATUS:dispatched", "STATUS:queued", "COMPLETE"]


def test_an_error_of_the_agent_fails_it_with_its_words(agent, doorbell):
    agent.behaves(answers({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no beans"}}))
    row = given_to(agent)
    doorbell.work()
    assert (fresh(row).status, fresh(row).error_detail) == ("failed", "no beans")
    agent.behaves(answers({"error": "broken"}, 500))
    row = given_to(agent)
    doorbell.work()
    assert (fresh(row).status, fresh(row).error_detail) == ("failed", "broken")


@pytest.mark.parametrize("state", ["working", "input-required"])
def test_a_task_that_goes_on_is_in_progress_and_its_words_are_no_result(agent, doorbell, state):
    message = {"parts": [{"kind": "text", "text": "which beans?"}]}
    agent.behaves(answers(said("", result={"kind": "task", "status": {"state": state, "message": message}})))
    row = given_to(agent)
    doorbell.work()
    stored = fresh(row)
    assert (stored.status, stored.result_preview, stored.last_heartbeat) == ("in_progress", None, None)
    assert not feed(row.caller_id).exists()


def test_an_answer_that_broke_off_is_not_asked_for_again(agent, doorbell, at_once_again):
    agent.behaves(breaks_off)
    row = given_to(agent)
    doorbell.work()
    assert len(agent.requests) == 1
    assert (fresh(row).status, fresh(row).error_detail) == ("failed", LOST)


def test_what_surely_did_not_arrive_gets_one_more_attempt(agent, doorbell, at_once_again):
    agent.behaves(answers({"error": "starting"}, 503), echo)
    row = given_to(agent)
    doorbell.work()
    assert (len(agent.requests), fresh(row).retry_count) == (2, 1)
    assert fresh(row).status == "completed"


def test_and_only_one(agent, doorbell, at_once_again):
    agent.close()
    row = given_to(agent)
    doorbell.work()
    stored = fresh(row)
    assert (stored.status, stored.retry_count) == ("failed", 1)
    assert stored.error_detail == "failed to reach workspace agent"
    assert inbox(row.caller_id).count() == 1


def test_a_callee_that_took_it_and_hung_up_gets_it_again_through_the_queue(agent, doorbell):
    agent.behaves(hangs_up, echo)
    row = given_to(agent)
    doorbell.work()
    stored = fresh(row)
    assert (stored.status, stored.delivery, stored.shown) == ("dispatched", "queue", "queued")
    assert feed(row.caller_id).get().summary == "Delegation queued — target at capacity"
    assert services.sweep(timezone.now(), up_since=timezone.now())["stuck_marked"] == 0
    drain(row.callee_id)
    assert [seen.message["messageId"] for seen in agent.requests] == [row.pk] * 2
    assert agent.requests[1].headers["x-a2a-redelivery"] == "1"
    assert (fresh(row).status, fresh(row).result_preview) == ("completed", "echo: count the beans")
    assert told(row.caller_id) == ["SENT", "STATUS:dispatched", "STATUS:queued", "COMPLETE"]
    event = StructureEvent.objects.get(event_type="DELEGATION_COMPLETE")
    assert event.payload["via"] == "queue_drain"
    assert inbox(row.caller_id).count() == 1


def test_a_busy_callee_is_asked_again_and_the_ack_is_no_answer(agent, doorbell):
    agent.behaves(answers({"error": "one at a time", "busy": True}, 503), echo)
    row = given_to(agent)
    doorbell.work()
    assert (fresh(row).shown, fresh(row).result_preview) == ("queued", None)
    drain(row.callee_id)
    assert fresh(row).result_preview == "echo: count the beans"


def test_a_message_that_nobody_waits_for_is_not_sent(agent, doorbell):
    agent.behaves(answers({"error": "one at a time", "busy": True}, 503), echo)
    row = given_to(agent)
    doorbell.work()
    services.fail_delegation(delegation_id=row.pk, reason="enough", actor="ada")
    item = QueueItem.objects.get(delegation_id=row.pk)
    assert (item.status, item.last_error) == ("dropped", "the delegation has ended")
    QueueItem.objects.update(status="queued", completed_at=None)  # as if it had been claimed at that moment
    drain(row.callee_id)
    assert (len(agent.requests), QueueItem.objects.get().status) == (1, "dropped")


def test_a_callee_that_cannot_be_reached_for_ever_fails_its_delegations(agent, doorbell):
    agent.behaves(hangs_up)
    row = given_to(agent)
    doorbell.work()
    for _ in range(5):
        QueueItem.objects.update(next_attempt_at=None)
        drain(row.callee_id)
    assert (QueueItem.objects.get().status, fresh(row).status) == ("failed", "failed")
    assert (len(agent.requests), inbox(row.caller_id).count()) == (6, 1)


def test_a_sleeping_callee_is_woken_and_gets_it_from_the_queue(agent, doorbell):
    backend = InMemoryBackend()
    dispatch.wire(backend)
    caller, callee = pair(status=Status.HIBERNATED, url=None)
    row = delegated(caller, callee)
    doorbell.work()
    assert Workspace.objects.get(pk=callee.pk).status == Status.PROVISIONING
    assert (fresh(row).status, fresh(row).delivery) == ("dispatched", "queue")
    assert drain(callee.pk) == 0
    Workspace.objects.filter(pk=callee.pk).update(status=Status.ONLINE, **agent.place)
    assert drain(callee.pk) == 1
    assert fresh(row).status == "completed"


def test_the_whole_time_used_up_is_stuck_and_neither_queued_nor_failed(agent, doorbell, monkeypatch):
    monkeypatch.setattr(execution, "BUDGET_S", 0.5)
    agent.behaves(waits())
    row = given_to(agent)
    doorbell.work()
    assert (fresh(row).status, fresh(row).error_detail) == ("stuck", "no answer within 30m0s of dispatch")
    assert not QueueItem.objects.exists()
    path = f"/workspaces/{row.callee_id}/delegations/{row.pk}/update"
    agent_of(row.callee_id).post(path, {"status": "completed", "response_preview": "42 beans"})
    assert (fresh(row).status, inbox(row.caller_id).count()) == ("completed", 1)


def test_an_operator_sends_a_stuck_one_again(agent, doorbell):
    row = given_to(agent, status="stuck", deadline="2026-01-01T00:00:00Z")
    answer = admin().post(f"/admin/delegations/{row.pk}/resolve", {"action": "requeue"})
    assert (answer.status_code, answer.json()["status"]) == (200, "dispatched")
    stored = fresh(row)
    assert (stored.delivery, stored.retry_count) == ("queue", 1)
    assert stored.deadline > timezone.now()
    drain(row.callee_id)
    (seen,) = agent.requests
    assert (seen.text, seen.message["messageId"]) == ("count the beans", row.pk)
    assert fresh(row).status == "completed"
    again = admin().post(f"/admin/delegations/{row.pk}/resolve", {"action": "requeue"})
    assert (again.status_code, again.json()["error"]) == (409, "delegation is terminal")


def test_an_end_that_came_first_is_not_overwritten_by_the_answer(agent, doorbell):
    agent.behaves(waits())
    row = given_to(agent)
    working = threading.Thread(target=lambda: at_once(doorbell.work))
    working.start()
    eventually(lambda: bool(agent.requests))
    services.fail_delegation(delegation_id=row.pk, reason="enough", actor="ada")
    agent.released.set()
    working.join(20)
    assert (fresh(row).status, inbox(row.caller_id).count()) == ("failed", 1)
    assert feed(row.caller_id, "delegate_result_late").get().response_body["text"] == "echo: count the beans"


def test_an_answer_waits_for_the_database(agent, doorbell, monkeypatch):
    monkeypatch.setattr(persistence, "PAUSES_S", (0.0, 0.0))
    row = given_to(agent)
    tries = []
    real = execution.settle

    def flaky(*given: Any) -> None:
        tries.append(given)
        if len(tries) < 3:
            from django.db import OperationalError

            raise OperationalError("the server closed the connection")
        real(*given)

    monkeypatch.setattr(execution, "settle", flaky)
    doorbell.work()
    assert (len(tries), fresh(row).status, len(agent.requests)) == (3, "completed", 1)


def test_a_task_whose_text_is_gone_fails_with_that_reason(agent, doorbell):
    row = given_to(agent)
    feed(row.caller_id, "delegate").delete()
    doorbell.work()
    assert (fresh(row).status, agent.requests) == ("failed", [])
    assert "no longer kept" in (fresh(row).error_detail or "")


def test_a_claim_that_cannot_be_written_sends_nothing(agent, doorbell):
    row = given_to(agent)
    with statements_fail('UPDATE "delegations"'), pytest.raises(Exception, match="driver text"):
        services.dispatch(row.pk)
    assert (agent.requests, fresh(row).status) == ([], "queued")


def test_removing_a_workspace_ends_what_it_was_asked_and_what_it_asked(doorbell):
    caller, callee = pair()
    third = pair()[0]
    Workspace.objects.filter(pk=third.pk).update(parent_id=caller.parent_id)
    asked, asking, other = delegated(caller, callee), delegated(callee, caller), delegated(caller, third)
    from workspaces.services import remove_workspace

    remove_workspace(workspace_id=callee.pk, confirmed=True)
    doorbell.rung = [one for one in doorbell.rung if one[0] != "delegations.dispatch"]
    doorbell.work()
    assert (fresh(asked).status, fresh(asked).error_detail) == ("failed", "target workspace removed")
    assert (fresh(asking).status, fresh(asking).error_detail) == ("failed", "caller workspace removed")
    assert fresh(other).status == "queued"
    assert (inbox(caller.pk).count(), inbox(callee.pk).count()) == (1, 0)
    assert Workspace.objects.get(pk=callee.pk).status == Status.REMOVED


def test_the_lease_of_an_open_dispatch_is_renewed(agent, doorbell):
    agent.behaves(waits())
    row = given_to(agent)
    working = threading.Thread(target=lambda: at_once(doorbell.work))
    working.start()
    eventually(lambda: bool(agent.requests))
    before = fresh(row).lease_expires_at
    assert keeper.renew() == 1
    assert fresh(row).lease_expires_at > before
    assert Keeper(renew).renew() == 0
    agent.released.set()
    working.join(20)
    assert keeper.renew() == 0


OUTCOMES = {
    Kind.ANSWER: ("completed", Delivered.YES),
    Kind.RPC_ERROR: ("failed", Delivered.YES),
    Kind.TASK_OPEN: ("in_progress", Delivered.YES),
    Kind.LOST_RESPONSE: ("failed", Delivered.YES),
    Kind.BUSY: ("stuck", Delivered.UNKNOWN),
    Kind.SETTLING: ("failed", Delivered.NO),
    Kind.WAKING: ("failed", Delivered.NO),
    Kind.DEAD: ("failed", Delivered.NO),
    Kind.UNREACHABLE: ("failed", Delivered.NO),
    Kind.AGENT_ERROR: ("failed", Delivered.YES),
    Kind.DENIED: ("failed", Delivered.NO),
    Kind.INVALID: ("failed", Delivered.NO),
}


@pytest.mark.parametrize("kind", Kind)
def test_every_outcome_has_a_verdict(kind: Kind):
    if kind in {Kind.QUEUED_BUSY, Kind.QUEUED_POLL}:
        assert verdict_on(Result(kind, Delivered.YES, 202)).waits is not None
        return
    status, delivered = OUTCOMES[kind]
    change = verdict_on(Result(kind, delivered, 500)).change
    assert change is not None
    assert change.to == status
    assert status != "failed" or change.error


def test_a_gateway_that_gave_up_is_no_second_attempt():
    result = Result(Kind.AGENT_ERROR, Delivered.UNKNOWN, 504, error="gateway", is_gateway=True)
    change = verdict_on(result).change
    assert change is not None
    assert (change.to, change.error) == ("failed", LOST)
