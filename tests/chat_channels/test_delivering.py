"""From a person in a chat to the agent and back: once, whatever dies or repeats itself on the way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from a2a.models import QueueItem
from a2a.services.drain import drain
from a2a.services.queue import drop
from activity.models import ActivityLog, StructureEvent
from activity.services import complete_activity, log_activity
from activity.supervision import subsystems
from chat_channels.models import Channel, ChannelMessage, Status
from chat_channels.services import deliver as work_on
from chat_channels.services import sweep
from chat_channels.services.delivering import STOPPED, keeper
from chat_channels.services.sweeping import KEPT, PATIENCE, Swept
from chat_channels.tasks import manager
from tests.a2a.fake_agent import FakeAgent, answers, hangs_up, waits
from tests.a2a.fake_agent import said as agent_said
from tests.chat_channels.conftest import Make
from tests.chat_channels.providers import Provider
from tests.chat_channels.webhooks import PROVIDERS, deliver, said
from tests.conftest import at_once
from tests.doorbell import Doorbell
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def row(agent: FakeAgent) -> Any:
    return WorkspaceFactory(**agent.place)


def arrived(channel_type: str = "telegram", text: str = "hi", **given: Any) -> ChannelMessage:
    """A message has come in; nobody has worked on it yet."""
    assert deliver(channel_type, said(channel_type, text, **given)).json()["status"] == "accepted"
    return ChannelMessage.objects.latest("created_at")


def now_stored(message: ChannelMessage) -> ChannelMessage:
    return ChannelMessage.objects.get(pk=message.pk)


def later() -> Any:
    return timezone.now() + PATIENCE * 10


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_the_agents_answer_goes_back_into_the_chat(
    row: Any, make: Make, agent: FakeAgent, provider: Provider, doorbell: Doorbell, channel_type: str
):
    channel = make(row, channel_type)
    message = arrived(channel_type, "good morning", user="U7")
    doorbell.work()
    (seen,) = agent.requests
    assert seen.text == "good morning"
    assert seen.message["metadata"]["channel_id"] == str(channel.pk)
    assert seen.message["metadata"]["username"] == "U7"
    assert provider.texts == ["echo: good morning"]
    stored = now_stored(message)
    assert (stored.status, stored.reply, stored.lease_expires_at) == ("done", "echo: good morning", None)
    told = StructureEvent.objects.filter(event_type="CHANNEL_MESSAGE").order_by("seq")
    assert [one.payload["direction"] for one in told] == ["inbound", "outbound"]
    assert Channel.objects.get().message_count == 1  # a message and its answer count once


def test_the_message_is_the_systems_in_the_feed(row: Any, make: Make, doorbell: Doorbell):
    make(row)
    arrived()
    doorbell.work()
    line = ActivityLog.objects.get(workspace_id=row.pk)
    assert (line.source_id, line.target_id, line.status) == (None, row.pk, "ok")
    assert line.request_body["params"]["metadata"]["caller"] == "channel:telegram"
    row.refresh_from_db()
    assert row.last_outbound_at is None


def test_an_answer_goes_into_the_thread_and_the_chat_it_belongs_to(
    row: Any, make: Make, provider: Provider, doorbell: Doorbell
):
    make(row, "slack", config={"chat_id": "C1,C2"})
    value = said("slack", "hi", chat="C2")
    value["event"]["thread_ts"] = "1699.1"
    assert deliver("slack", value).json()["status"] == "accepted"
    doorbell.work()
    (post,) = provider.posts
    assert (post.chat, post.body["thread_ts"]) == ("C2", "1699.1")


def test_a_repeated_delivery_does_not_make_the_agent_work_twice(
    row: Any, make: Make, agent: FakeAgent, provider: Provider, doorbell: Doorbell
):
    make(row)
    value = said("telegram")
    for _ in range(2):
        deliver("telegram", value)
        doorbell.work()
    assert (len(agent.requests), len(provider.posts)) == (1, 1)


def test_a_doubled_ring_finds_nothing_to_do(row: Any, make: Make, agent: FakeAgent, provider: Provider):
    make(row)
    message = arrived()
    at_once(*[lambda: work_on(message.pk)] * 4)
    work_on(message.pk)
    assert (len(agent.requests), provider.texts) == (1, ["echo: hi"])


def test_a_busy_agent_gets_it_from_the_queue_and_the_answer_is_posted(
    row: Any, make: Make, agent: FakeAgent, provider: Provider, doorbell: Doorbell
):
    make(row)
    agent.behaves(answers({"busy": True}, 503), answers(agent_said("later")))
    message = arrived()
    doorbell.work()
    item = QueueItem.objects.get()
    assert (item.caller_kind, item.caller_label) == ("system", "channel:telegram")
    assert now_stored(message).status == Status.WAITING
    assert ActivityLog.objects.filter(workspace_id=row.pk).count() == 1
    QueueItem.objects.update(next_attempt_at=None)
    drain(row.pk)
    doorbell.work()
    assert provider.texts == ["later"]
    assert now_stored(message).status == Status.DONE


def test_an_agent_that_is_away_gets_it_when_it_is_back(make: Make, provider: Provider, doorbell: Doorbell):
    gone = WorkspaceFactory(url="http://127.0.0.1:9/", url_source="platform")
    make(gone)
    message = arrived()
    doorbell.work()
    assert now_stored(message).status == Status.WAITING
    assert QueueItem.objects.get().workspace_id == gone.pk
    assert provider.posts == []


def test_a_message_given_up_by_the_queue_has_failed(
    row: Any, make: Make, agent: FakeAgent, doorbell: Doorbell
):
    make(row)
    agent.behaves(answers({"busy": True}, 503))
    message = arrived()
    doorbell.work()
    assert drop(QueueItem.objects.get(), "too old")
    stored = now_stored(message)
    assert (stored.status, stored.error) == (Status.FAILED, "too old")


def test_a_polling_agent_finds_it_in_its_inbox(make: Make, provider: Provider, doorbell: Doorbell):
    polling = WorkspaceFactory(delivery_mode="poll")
    make(polling)
    message = arrived(text="for the inbox")
    doorbell.work()
    line = ActivityLog.objects.get(workspace_id=polling.pk, activity_type="a2a_receive")
    assert line.request_body["params"]["message"]["parts"][0]["text"] == "for the inbox"
    assert now_stored(message).status == Status.DONE
    assert provider.posts == []


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (answers({"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": "no"}}), "failed"),
        (answers({"error": "broken"}, 500), "failed"),
        (answers({"jsonrpc": "2.0", "id": 1, "result": {"status": {"state": "working"}}}), "done"),
    ],
    ids=["rpc error", "agent error", "task"],
)
def test_what_is_no_answer_is_not_posted(
    row: Any,
    make: Make,
    agent: FakeAgent,
    provider: Provider,
    doorbell: Doorbell,
    behaviour: Any,
    status: str,
):
    make(row)
    agent.behaves(behaviour)
    message = arrived()
    doorbell.work()
    assert now_stored(message).status == status
    assert provider.posts == []


def test_a_spent_budget_of_the_workspace_reaches_no_agent(make: Make, agent: FakeAgent, doorbell: Doorbell):
    spent = WorkspaceFactory(**agent.place, budget_limit=0)
    make(spent)
    message = arrived()
    doorbell.work()
    assert (now_stored(message).status, agent.requests) == (Status.FAILED, [])


def test_a_channel_deleted_meanwhile_ends_it_quietly(
    row: Any, make: Make, agent: FakeAgent, doorbell: Doorbell
):
    channel = make(row)
    arrived()
    channel.delete()
    doorbell.work()
    assert agent.requests == []


def test_a_channel_deleted_during_the_turn_ends_it_quietly(
    row: Any, make: Make, agent: FakeAgent, provider: Provider
):
    channel = make(row)
    message = arrived()
    agent.behaves(waits())

    def delete() -> None:
        eventually(lambda: bool(agent.requests))
        channel.delete()
        agent.released.set()

    assert at_once(lambda: work_on(message.pk), delete) == [None, None]
    assert provider.posts == []


# --- Posting the answer


def test_an_answer_that_is_refused_is_posted_by_the_next_tick(
    row: Any, make: Make, agent: FakeAgent, provider: Provider, doorbell: Doorbell
):
    make(row)
    provider.fails = 2
    message = arrived()
    doorbell.work()
    assert now_stored(message).status == Status.ANSWERED
    for _ in range(2):
        ChannelMessage.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
        assert sweep(later()).rung == 1
        doorbell.work()
    assert (provider.texts, len(agent.requests)) == (["echo: hi"], 1)
    assert now_stored(message).status == Status.DONE


def test_an_answer_is_given_up_after_some_tries(row: Any, make: Make, provider: Provider, doorbell: Doorbell):
    make(row)
    provider.fails = 100
    message = arrived()
    doorbell.work()
    for _ in range(10):
        ChannelMessage.objects.update(lease_expires_at=None)
        sweep(later())
        doorbell.work()
    stored = now_stored(message)
    assert stored.status == Status.FAILED
    assert "overloaded" in (stored.error or "")
    assert provider.fails == 100 - 4


def test_an_answer_that_may_have_arrived_is_not_posted_again(
    row: Any, make: Make, provider: Provider, doorbell: Doorbell
):
    make(row)
    provider.drips = True
    message = arrived()
    doorbell.work()
    assert now_stored(message).status == Status.FAILED
    assert sweep(later()).rung == 0


# --- A worker that dies


def test_a_lost_ring_is_found(row: Any, make: Make, agent: FakeAgent, doorbell: Doorbell):
    make(row)
    arrived()
    doorbell.rung.clear()
    assert sweep(timezone.now()).rung == 0  # its worker may be on the way
    assert sweep(later()).rung == 1
    doorbell.work()
    assert len(agent.requests) == 1
    assert sweep(later()).rung == 0


def died_asking(message: ChannelMessage) -> None:
    lease = timezone.now() - timedelta(seconds=1)
    rows = ChannelMessage.objects.filter(pk=message.pk)
    rows.update(status="sending", attempts=1, lease_expires_at=lease)


def in_the_feed(row: Any, message: ChannelMessage) -> ActivityLog:
    return log_activity(
        workspace_id=row.pk,
        activity_type="a2a_receive",
        announce=False,
        message_id=f"channel-{message.pk}",
        status="pending",
    )


def test_a_worker_that_died_before_it_sent_is_followed_by_another(
    row: Any, make: Make, agent: FakeAgent, provider: Provider, doorbell: Doorbell
):
    make(row)
    died_asking(arrived())
    doorbell.rung.clear()
    assert sweep(later()).examined == 1
    doorbell.work()
    assert (len(agent.requests), provider.texts) == (1, ["echo: hi"])


def test_a_worker_that_died_after_it_sent_is_not_followed_by_a_second_message(
    row: Any, make: Make, agent: FakeAgent, doorbell: Doorbell
):
    make(row)
    message = arrived()
    died_asking(message)
    in_the_feed(row, message)
    doorbell.rung.clear()
    sweep(later())
    doorbell.work()
    stored = now_stored(message)
    assert (stored.status, stored.error, agent.requests) == (Status.FAILED, STOPPED, [])


def test_an_answer_that_its_worker_did_not_live_to_post_is_posted(
    row: Any, make: Make, agent: FakeAgent, provider: Provider, doorbell: Doorbell
):
    make(row)
    message = arrived()
    died_asking(message)
    line = in_the_feed(row, message)
    complete_activity(
        row_id=line.pk, status="ok", response_body=agent_said("done"), duration_ms=1, announce=False
    )
    doorbell.rung.clear()
    sweep(later())
    doorbell.work()
    assert (agent.requests, provider.texts) == ([], ["done"])
    assert now_stored(message).status == Status.DONE


def test_a_message_whose_worker_lives_is_left_alone(row: Any, make: Make):
    make(row)
    message = arrived()
    ChannelMessage.objects.update(status="sending", lease_expires_at=timezone.now() + PATIENCE * 100)
    assert sweep(later()).examined == 0
    with keeper.keeping(str(message.pk)):
        assert keeper.renew() == 1
    assert keeper.renew() == 0


def test_an_agent_that_hangs_up_gets_it_again_from_the_queue_with_the_same_id(
    row: Any, make: Make, agent: FakeAgent, doorbell: Doorbell
):
    make(row)
    agent.behaves(hangs_up)
    message = arrived()
    doorbell.work()
    assert now_stored(message).status == Status.WAITING
    assert QueueItem.objects.get().idempotency_key == f"channel-{message.pk}"


# --- The tick


def test_what_is_old_goes_and_a_tick_with_nothing_to_do_costs_two_queries(
    row: Any, make: Make, django_assert_num_queries: Any
):
    make(row)
    old, new = arrived(), arrived()
    ChannelMessage.objects.update(status="done")
    ChannelMessage.objects.filter(pk=old.pk).update(created_at=timezone.now() - KEPT - timedelta(hours=1))
    assert sweep(timezone.now()).pruned == 1
    assert list(ChannelMessage.objects.all()) == [new]
    with django_assert_num_queries(2):
        assert sweep(timezone.now()) == Swept()


def test_the_manager_ticks_under_its_name(make: Make, row: Any):
    assert "channel-manager" in subsystems()
    manager()
    standing = subsystems()["channel-manager"]
    assert (standing["stale"], standing["last_error"], standing["expected_interval_seconds"]) == (
        False,
        None,
        30,
    )
