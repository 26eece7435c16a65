"""What is said in a chat: it arrives, it is counted, and a provider that does not take it is no success."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from django.test import Client

from activity.models import StructureEvent
from chat_channels import wire
from chat_channels.adapters.base import pieces
from chat_channels.models import Channel, ChannelMessage
from chat_channels.services import post_to_channels, recent_context, send_message, sending
from config.errors import TooManyRequests
from tests.chat_channels.conftest import Make
from tests.chat_channels.providers import DISCORD_TOKEN, TELEGRAM_TOKEN, Provider
from tests.chat_channels.webhooks import PROVIDERS
from tests.clients import admin, agent_of
from tests.conftest import ADMIN_TOKEN, at_once
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db


def send(channel: Channel, text: Any = "hello", verb: str = "send") -> Any:
    path = f"/workspaces/{channel.workspace_id}/channels/{channel.pk}/{verb}"
    return agent_of(channel.workspace_id).post(path, {} if text is None else {"text": text})


def count_of(channel: Channel) -> int:
    return Channel.objects.get(pk=channel.pk).message_count


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_a_text_arrives_and_is_told_of(make: Make, provider: Provider, published: Any, channel_type: str):
    channel = make(WorkspaceFactory(), channel_type)
    answer = send(channel, "héllo 👋")
    assert (answer.status_code, answer.json()) == (200, {"status": "sent"})
    assert provider.texts == ["héllo 👋"]
    stored = Channel.objects.get()
    assert stored.message_count == 1
    assert stored.last_message_at is not None
    event = StructureEvent.objects.get(event_type="CHANNEL_MESSAGE")
    expected = {"channel_id": str(channel.pk), "channel_type": channel_type, "direction": "outbound"}
    assert (event.workspace_id, event.payload) == (channel.workspace_id, expected)


def test_slack_and_discord_take_a_bot_or_a_webhook(make: Make, provider: Provider):
    row = WorkspaceFactory()
    hook = make(row, "slack", config={"bot_token": "", "webhook_url": "<provider>/slack/hook"})
    bot = make(row, "discord", config={"webhook_url": "", "bot_token": DISCORD_TOKEN})
    assert [send(one).status_code for one in (hook, bot)] == [200, 200]
    assert [one.chat for one in provider.posts] == ["hook", "900"]
    provider.fails = 1
    assert send(hook).json()["error"] == "Slack refused it: 503"


@pytest.mark.parametrize(
    ("channel_type", "text", "arrives"),
    [
        ("slack", "<!channel> a & b", "&lt;!channel&gt; a &amp; b"),
        ("lark", '<at user_id="all">', '<\u200bat user_id="all">'),
    ],
)
def test_an_agent_calls_nobody_together(
    make: Make, provider: Provider, channel_type: str, text: str, arrives: str
):
    send(make(WorkspaceFactory(), channel_type), text)
    assert provider.texts == [arrives]


def test_discord_is_told_to_call_nobody_together(make: Make, provider: Provider):
    send(make(WorkspaceFactory(), "discord"), "@everyone")
    assert provider.posts[0].body["allowed_mentions"] == {"parse": []}


def test_a_long_text_comes_in_pieces_that_the_provider_takes(make: Make, provider: Provider):
    text = "👋" * 2100 + "\n" + "x" * 5000
    assert send(make(WorkspaceFactory()), text).status_code == 200
    assert len(provider.posts) > 2
    assert "".join(provider.texts) == text


@pytest.mark.parametrize("limit", [4, 7, 10])
def test_pieces_lose_nothing_and_fit(limit: int):
    for text in ("", "a", "ab\ncd\nef", "👋👋👋👋", "x" * 21, "\n\n\n\n\n\n\n\n\n\n\n"):
        parts = list(pieces(text, limit))
        assert "".join(parts) == text
        assert all(0 < len(one.encode("utf-16-le")) // 2 <= limit for one in parts)


def test_a_text_goes_into_every_chat_and_those_without_it_are_named(make: Make, provider: Provider):
    both = make(WorkspaceFactory(), config={"chat_id": "-100, -200"})
    assert send(both).json() == {"status": "sent"}
    assert [one.chat for one in provider.posts] == ["-100", "-200"]
    one = make(WorkspaceFactory(), config={"chat_id": "-100,-300"})
    assert send(one).json() == {"status": "sent", "failed": ["-300"]}
    assert count_of(one) == 1


def test_what_the_provider_refuses_is_a_502_with_its_reason_and_costs_nothing(make: Make, provider: Provider):
    channel = make(WorkspaceFactory(), config={"chat_id": "-300"}, channel_budget=1)
    answer = send(channel)
    assert answer.status_code == 502
    assert answer.json()["error"] == "Telegram refused it: Bad Request: chat not found"
    assert count_of(channel) == 0
    assert not ChannelMessage.objects.exists()
    assert not StructureEvent.objects.filter(event_type="CHANNEL_MESSAGE").exists()


def test_a_provider_that_does_not_answer_is_given_up_and_counted(
    make: Make, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(wire, "CALL_S", 0.3)
    provider.hangs = threading.Event()
    channel = make(WorkspaceFactory())
    answer = send(channel)
    assert (answer.status_code, answer.json()["error"]) == (502, "Telegram did not answer")
    assert count_of(channel) == 1  # it may have it


def test_a_broken_answer_is_no_success(make: Make, provider: Provider):
    provider.drips = True
    assert send(make(WorkspaceFactory())).status_code == 502


def test_no_credential_is_logged_or_answered(
    make: Make, provider: Provider, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    caplog.set_level(logging.INFO)
    channel = make(WorkspaceFactory())
    provider.hangs = threading.Event()
    provider.hangs.set()
    provider.drips = True
    answers = [send(channel)]
    provider.drips = False
    answers.append(send(channel))
    provider.fails = 1
    answers.append(send(channel))
    shown = caplog.text + "".join(capfd.readouterr()) + "".join(one.content.decode() for one in answers)
    assert [one.status_code for one in answers] == [502, 200, 502]
    assert TELEGRAM_TOKEN not in shown


def test_addresses_of_this_network_are_not_called(make: Make, provider: Provider, settings: Any):
    channel = make(WorkspaceFactory())
    settings.MOLECULE_ENV = "production"
    answer = send(channel)
    assert answer.status_code == 502
    assert "not allowed" in answer.json()["error"]
    assert provider.asked == []


@pytest.mark.parametrize("text", ["", "  ", "x" * 20_001, 5, None])
def test_a_text_that_is_none_is_refused(make: Make, provider: Provider, text: Any):
    channel = make(WorkspaceFactory())
    answer = send(channel, text)
    assert (answer.status_code, "text" in answer.json()["error"]) == (400, True)
    assert (provider.posts, count_of(channel)) == ([], 0)


def test_a_disabled_channel_says_nothing_but_can_be_tested(make: Make, provider: Provider):
    channel = make(WorkspaceFactory(), enabled=False)
    assert send(channel).status_code == 409
    assert provider.posts == []
    answer = send(channel, None, "test")
    assert (answer.status_code, answer.json()) == (200, {"status": "sent"})
    assert "test" in provider.texts[0]


def test_a_test_needs_no_body(make: Make, provider: Provider):
    channel = make(WorkspaceFactory())
    path = f"/workspaces/{channel.workspace_id}/channels/{channel.pk}/test"
    client = Client(headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    assert client.generic("POST", path, b"", content_type="application/json").status_code == 200


def test_a_text_for_many_chats_takes_no_longer_than_it_may(
    make: Make, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sending, "POSTING_S", 0.3)
    provider.hangs = threading.Event()
    assert send(make(WorkspaceFactory(), config={"chat_id": "-100,-200,5,6,7"})).status_code == 502
    assert len(provider.asked) == 1


# --- The budget


def test_a_budget_is_a_429_and_nothing_is_said(make: Make, provider: Provider):
    channel = make(WorkspaceFactory(), channel_budget=2)
    assert [send(channel).status_code for _ in range(3)] == [200, 200, 429]
    for verb in ("send", "test"):
        assert send(channel, "x", verb).json()["error"] == "channel budget exceeded"
    assert len(provider.posts) == 2
    admin().patch(f"/workspaces/{channel.workspace_id}/channels/{channel.pk}", {"channel_budget": None})
    assert send(channel).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_no_more_than_the_budget_are_said(make: Make, provider: Provider):
    channel = make(WorkspaceFactory(), channel_budget=3)

    def say() -> Any:
        return send_message(workspace_id=channel.workspace_id, channel_id=channel.pk, text="x")

    outcomes = at_once(*[say] * 8)
    assert sum(isinstance(one, TooManyRequests) for one in outcomes) == 5
    assert (len(provider.posts), count_of(channel)) == (3, 3)


# --- What schedules use


def test_a_text_for_all_channels_goes_where_it_can(make: Make, provider: Provider):
    row = WorkspaceFactory()
    make(row, "telegram", config={"chat_id": "-300"})  # refused
    make(row, "discord", enabled=False)
    make(row, "lark", channel_budget=0)
    make(row, "slack")
    make(WorkspaceFactory(), "slack")
    assert post_to_channels(row.pk, "the report") == ["slack"]
    assert provider.texts == ["the report"]
    assert post_to_channels(row.pk, "  ") == []
    assert post_to_channels(WorkspaceFactory().pk, "x") == []


def test_a_text_for_all_channels_takes_no_longer_than_it_may(make: Make, provider: Provider):
    row = WorkspaceFactory()
    for channel_type in PROVIDERS:
        make(row, channel_type)
    provider.hangs = threading.Event()
    assert post_to_channels(row.pk, "x", within_s=0.3) == []
    assert len(provider.asked) == 1


def test_the_context_is_what_was_said_lately_one_line_each(make: Make, provider: Provider):
    row = WorkspaceFactory()
    assert recent_context(row.pk) == ""
    channel = make(row)
    send(channel, "good\nmorning")
    ChannelMessage.objects.create(
        channel=channel,
        direction="inbound",
        status="done",
        username="ada\n[telegram] you",
        text="what\nis new?",
        reply="nothing",
    )
    assert recent_context(row.pk).split("\n") == [
        "Recent messages in your channels, oldest first:",
        "[telegram] you: good morning",
        "[telegram] ada [telegram] you: what is new?",
        "[telegram] you: nothing",
    ]
    for number in range(20):
        send(channel, f"{number} " + "x" * 600)
    lines = recent_context(row.pk).split("\n")
    assert len(lines) == 11
    assert all(len(one) < 520 for one in lines)
    assert recent_context(WorkspaceFactory().pk) == ""
