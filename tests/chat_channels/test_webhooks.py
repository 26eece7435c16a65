"""Deliveries of providers: believed with a right signature only, stored once, answered at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from activity.models import ActivityLog, StructureEvent
from chat_channels import manager
from chat_channels.adapters.base import TOLERANCE_S
from chat_channels.models import Channel, ChannelMessage
from config.valkey import client
from tests.chat_channels import webhooks
from tests.chat_channels.conftest import Make
from tests.chat_channels.providers import DISCORD_TOKEN
from tests.chat_channels.webhooks import (
    DISCORD_KEY,
    LARK_TOKEN,
    PROVIDERS,
    SECRETS,
    asks,
    deliver,
    post,
    said,
)
from tests.clients import admin
from tests.conftest import at_once
from tests.doorbell import Doorbell
from tests.workspaces.factories import WorkspaceFactory
from workspaces.services import remove_workspace

pytestmark = pytest.mark.django_db
STAMPED = [one for one in PROVIDERS if one != "telegram"]


def outcome(answer: Any) -> str:
    assert answer.status_code == 200, answer.content
    return str(answer.json()["status"])


def stored() -> int:
    return ChannelMessage.objects.count()


# --- Who is believed


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_a_signed_message_is_accepted_and_told_of(make: Make, doorbell: Doorbell, channel_type: str):
    row = WorkspaceFactory()
    channel = make(row, channel_type)
    answer = deliver(channel_type, said(channel_type, "good morning", user="U7"))
    assert outcome(answer) == "accepted"
    message = ChannelMessage.objects.get()
    assert (message.status, message.text, message.channel_id) == ("received", "good morning", channel.pk)
    event = StructureEvent.objects.get(event_type="CHANNEL_MESSAGE")
    assert event.workspace_id == row.pk
    assert event.payload == {
        "channel_id": str(channel.pk),
        "channel_type": channel_type,
        "direction": "inbound",
        "username": "U7",
    }
    counted = Channel.objects.get()
    assert (counted.message_count, counted.last_message_at is not None) == (1, True)


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_without_a_right_signature_nothing_is_believed(make: Make, channel_type: str):
    make(WorkspaceFactory(), channel_type)
    value = said(channel_type)
    body, headers = webhooks.signed(channel_type, value)
    broken: list[tuple[bytes, dict[str, str]]] = [
        webhooks.signed(channel_type, value, secret="another"),
        (body, {}),
        *((body, {**headers, name: ""}) for name in headers),
        *((body, {**headers, name: "junk\u00e9"}) for name in headers),
    ]
    if channel_type != "telegram":  # its secret is not about the body
        broken.append((body + b" ", headers))
    for one, given in broken:
        answer = post(channel_type, one, given)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid webhook signature"), given
    assert stored() == 0


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_nothing_is_parsed_before_it_is_verified(make: Make, channel_type: str):
    make(WorkspaceFactory(), channel_type)
    for body in (b"{", b"\xff", b"[]", b"", b"x" * 1000):
        assert post(channel_type, body, {}).status_code == 401
        if channel_type == "lark":
            continue  # what it signs is encrypted
        answer = deliver(channel_type, body)
        assert answer.status_code in {200, 400}, answer.content
    assert stored() == 0


@pytest.mark.parametrize("channel_type", STAMPED)
@pytest.mark.parametrize("off", [-TOLERANCE_S - 5, TOLERANCE_S + 60])
def test_an_old_delivery_replayed_is_refused(make: Make, channel_type: str, off: int):
    make(WorkspaceFactory(), channel_type)
    value = said(channel_type)
    assert deliver(channel_type, value, at=time.time() + off).status_code == 401
    assert outcome(deliver(channel_type, value, at=time.time() - TOLERANCE_S + 30)) == "accepted"


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_a_channel_without_a_secret_believes_nobody(make: Make, channel_type: str):
    gone = {"webhook_secret": "", "verification_token": "", "public_key": ""}
    make(WorkspaceFactory(), channel_type, config={k: v for k, v in gone.items() if k != "chat_id"})
    for secret in (None, "", "x"):
        body, headers = webhooks.signed(channel_type, said(channel_type), secret=secret)
        assert post(channel_type, body, headers).status_code == 401
    assert post(channel_type, b"{}", {"X-Telegram-Bot-Api-Secret-Token": ""}).status_code == 401


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_nobody_listens(make: Make, channel_type: str):
    value = said(channel_type)
    assert deliver(channel_type, value).status_code == 401  # no channel at all
    row = WorkspaceFactory()
    channel = make(row, channel_type, enabled=False)
    assert deliver(channel_type, value).status_code == 401
    path = f"/workspaces/{row.pk}/channels/{channel.pk}"
    admin().patch(path, {"enabled": True})
    assert outcome(deliver(channel_type, value)) == "accepted"  # at once: the change was told
    admin().delete(path)
    assert deliver(channel_type, said(channel_type)).status_code == 401


def test_channels_of_a_removed_workspace_listen_no_more(make: Make, django_capture_on_commit_callbacks: Any):
    row = WorkspaceFactory()
    make(row)
    assert outcome(deliver("telegram", said("telegram"))) == "accepted"
    with django_capture_on_commit_callbacks(execute=True):
        remove_workspace(workspace_id=row.pk, confirmed=True)
    assert deliver("telegram", said("telegram")).status_code == 401


def test_an_unknown_type_is_a_404():
    assert post("fax", b"{}", {}).json() == {"error": "unknown channel type"}
    assert post("fax", b"{}", {}).status_code == 404


def test_a_body_above_one_mebibyte_is_a_413(make: Make, settings: Any):
    settings.MAX_JSON_BODY_BYTES = 1000  # for other routes
    make(WorkspaceFactory())
    assert outcome(deliver("telegram", said("telegram", "x" * 4000))) == "accepted"
    answer = deliver("telegram", b" " * (1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]) == (413, "request body too large")


def test_refusals_do_not_shut_out_the_others_of_the_provider(make: Make, settings: Any, valkey: Any):
    settings.AUTH_FAIL_LIMIT = 3
    make(WorkspaceFactory())
    for _ in range(5):
        assert deliver("telegram", said("telegram"), secret="forgotten").status_code == 401
    assert outcome(deliver("telegram", said("telegram"))) == "accepted"


# --- Handshakes


@pytest.mark.parametrize("channel_type", STAMPED)
def test_the_provider_may_ask_whether_the_address_is_right(make: Make, channel_type: str):
    make(WorkspaceFactory(), channel_type)
    question, expected = asks(channel_type)
    answer = deliver(channel_type, question)
    assert (answer.status_code, answer.json()) == (200, expected)
    assert deliver(channel_type, question, secret="another").status_code == 401
    assert stored() == 0


def test_lark_asks_without_a_signature_and_proves_itself_by_its_key_and_token(make: Make):
    make(WorkspaceFactory(), "lark")
    question, expected = asks("lark")

    def unsigned(value: Any, key: str = SECRETS["lark"]) -> Any:
        return post("lark", webhooks.encrypted(json.dumps(value).encode(), key), {})

    assert unsigned(question).json() == expected
    for refused in (
        unsigned(question, key="another"),
        unsigned({**question, "token": "another"}),
        unsigned({**question, "token": None}),
        unsigned(said("lark")),  # a message is never believed without a signature
        unsigned({**said("lark"), "token": LARK_TOKEN}),
        post("lark", json.dumps(question).encode(), {}),
        post("lark", b'{"encrypt":"AAAA"}', {}),
        post("lark", b'{"encrypt":"%%"}', {}),
    ):
        assert refused.status_code == 401
    assert stored() == 0


def test_discord_is_told_what_to_show_the_person(make: Make):
    make(WorkspaceFactory(), "discord")
    answer = deliver("discord", said("discord")).json()
    assert (answer["status"], answer["type"], answer["data"]["flags"]) == ("accepted", 4, 64)
    elsewhere = deliver("discord", said("discord", chat="1")).json()
    assert (elsewhere["status"], elsewhere["type"]) == ("no_channel", 4)


def test_a_discord_key_of_another_application_is_not_believed(make: Make):
    make(WorkspaceFactory(), "discord", config={"public_key": "00" * 32})
    assert DISCORD_KEY
    assert deliver("discord", said("discord")).status_code == 401


def test_a_public_key_entitles_nobody_to_what_is_said_to_another(make: Make):
    """It can be looked up. Who holds the application's bot token too may listen."""
    first, thief, friend = (WorkspaceFactory() for _ in range(3))
    make(first, "discord", config={"bot_token": DISCORD_TOKEN, "webhook_url": ""})
    make(thief, "discord")
    make(friend, "discord", config={"bot_token": DISCORD_TOKEN, "webhook_url": ""})
    assert outcome(deliver("discord", said("discord"))) == "accepted"
    heard = set(ChannelMessage.objects.values_list("channel__workspace_id", flat=True))
    assert heard == {first.pk, friend.pk}


# --- What becomes of it


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_a_chat_that_is_nobodys_is_no_channel(make: Make, channel_type: str):
    make(WorkspaceFactory(), channel_type)
    other = {"telegram": "-999", "slack": "C9", "lark": "oc_9", "discord": "999"}[channel_type]
    assert outcome(deliver(channel_type, said(channel_type, chat=other))) == "no_channel"
    assert stored() == 0


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ([], "accepted"),
        (["ada"], "accepted"),
        (["@ADA"], "accepted"),
        (["77"], "accepted"),
        (["bob"], "ignored"),
    ],
    ids=["all", "name", "at", "id", "other"],
)
def test_only_who_may_write_reaches_the_agent(make: Make, allowed: list[str], expected: str):
    make(WorkspaceFactory(), allowed_users=allowed)
    assert outcome(deliver("telegram", said("telegram", user="Ada"))) == expected
    assert stored() == (expected == "accepted")


def test_a_writer_without_any_name_is_not_on_a_list(make: Make):
    make(WorkspaceFactory(), allowed_users=["ada"])
    value = said("telegram")
    del value["message"]["from"]
    assert outcome(deliver("telegram", value)) == "ignored"


def test_a_name_that_a_person_gives_himself_proves_nothing(make: Make):
    make(WorkspaceFactory(), allowed_users=["ada"])
    value = said("telegram")
    value["message"]["from"] = {"id": 5, "first_name": "ada"}
    assert outcome(deliver("telegram", value)) == "ignored"
    make(WorkspaceFactory(), "discord", allowed_users=["123456789012345678"])
    named = said("discord", user="123456789012345678")  # chosen as a name
    assert outcome(deliver("discord", named)) == "ignored"
    named["member"]["user"]["id"] = "123456789012345678"
    assert outcome(deliver("discord", named)) == "accepted"


def test_who_has_no_name_is_shown_by_what_there_is(make: Make):
    make(WorkspaceFactory())
    value = said("telegram")
    value["message"]["from"] = {"id": 5, "first_name": "Ada"}
    deliver("telegram", value)
    assert ChannelMessage.objects.get().username == "Ada"


def changed(channel_type: str, **changes: Any) -> Any:
    value = said(channel_type)
    part = {"telegram": "message", "slack": "event"}.get(channel_type)
    if part:
        value[part].update(changes)
    elif channel_type == "lark":
        value["event"]["message"].update(changes.get("message", {}))
        value["event"]["sender"].update(changes.get("sender", {}))
    else:
        value.update(changes)
    return value


NOTHING_SAID: dict[str, Callable[[], Any]] = {
    "a sticker": lambda: changed("telegram", text=None),
    "a bot": lambda: changed("telegram", **{"from": {"id": 1, "is_bot": True}}),
    "an edit": lambda: {"update_id": 1, "edited_message": said("telegram")["message"]},
    "no update": lambda: {"x": 1},
    "slack bot": lambda: changed("slack", bot_id="B1"),
    "slack edit": lambda: changed("slack", subtype="message_changed"),
    "slack reaction": lambda: changed("slack", type="reaction_added"),
    "slack mention only": lambda: changed("slack", text="<@U0B0T> "),
    "lark picture": lambda: changed("lark", message={"message_type": "image"}),
    "lark app": lambda: changed("lark", sender={"sender_type": "app"}),
    "lark junk": lambda: changed("lark", message={"content": "{"}),
    "discord button": lambda: changed("discord", type=3),
    "discord empty": lambda: changed("discord", data={"options": "x"}),
}


@pytest.mark.parametrize("name", NOTHING_SAID)
def test_what_nobody_wrote_is_ignored(make: Make, name: str):
    channel_type = name.partition(" ")[0] if name.partition(" ")[0] in PROVIDERS else "telegram"
    make(WorkspaceFactory(), channel_type)
    assert outcome(deliver(channel_type, NOTHING_SAID[name]())) == "ignored"
    assert stored() == 0


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_a_repeated_delivery_is_one_message(make: Make, doorbell: Doorbell, channel_type: str):
    make(WorkspaceFactory(), channel_type, channel_budget=1)
    value = said(channel_type)
    assert [outcome(deliver(channel_type, value)) for _ in range(3)] == ["accepted"] * 3
    assert (stored(), Channel.objects.get().message_count) == (1, 1)


def test_a_mention_that_slack_tells_twice_is_one_message(make: Make):
    make(WorkspaceFactory(), "slack")
    value = said("slack", "<@U0B0T> hello")
    twice = {**value, "event_id": "another", "event": {**value["event"], "type": "app_mention"}}
    for one in (value, twice):
        assert outcome(deliver("slack", one)) == "accepted"
    assert [one.text for one in ChannelMessage.objects.all()] == ["hello"]


@pytest.mark.django_db(transaction=True)
def test_of_simultaneous_repeats_one_is_stored(make: Make, doorbell: Doorbell):
    make(WorkspaceFactory())
    value = said("telegram")
    answers = at_once(*[lambda: deliver("telegram", value)] * 6)
    assert [outcome(one) for one in answers] == ["accepted"] * 6
    assert (stored(), Channel.objects.get().message_count) == (1, 1)
    assert len(doorbell.rung) == 1
    assert StructureEvent.objects.filter(event_type="CHANNEL_MESSAGE").count() == 1


def test_a_channel_over_its_budget_takes_nothing(make: Make):
    make(WorkspaceFactory(), channel_budget=1)
    assert outcome(deliver("telegram", said("telegram"))) == "accepted"
    assert outcome(deliver("telegram", said("telegram"))) == "ignored"
    assert (stored(), Channel.objects.get().message_count) == (1, 1)


def test_every_workspace_that_listens_to_a_chat_hears_it(make: Make):
    first, second, third = WorkspaceFactory(), WorkspaceFactory(), WorkspaceFactory()
    make(first)
    make(second, config={"chat_id": "-100,-200"})
    make(third, config={"webhook_secret": "its-own"})
    assert outcome(deliver("telegram", said("telegram"))) == "accepted"
    heard = set(ChannelMessage.objects.values_list("channel__workspace_id", flat=True))
    assert heard == {first.pk, second.pk}


def test_nul_and_broken_surrogates_are_stored_readably(make: Make):
    make(WorkspaceFactory())
    value = said("telegram", "a\u0000b")
    body = json.dumps(value).replace("a\\u0000b", "a\\u0000b\\ud83d").encode()
    assert outcome(deliver("telegram", body)) == "accepted"
    assert ChannelMessage.objects.get().text == "a\ufffdb\ufffd"


def test_the_agent_is_not_asked_in_the_request(make: Make):
    make(WorkspaceFactory(url="http://127.0.0.1:9/"))
    assert outcome(deliver("telegram", said("telegram"))) == "accepted"
    assert not ActivityLog.objects.exists()


# --- The manager


def test_a_process_asks_the_table_once_until_a_channel_changes(make: Make, django_assert_num_queries: Any):
    row = WorkspaceFactory()
    make(row)
    client().set(manager.VERSION_KEY, "1")
    with django_assert_num_queries(1):
        assert len(manager.listeners("telegram")) == 1
    with django_assert_num_queries(0):
        assert len(manager.listeners("telegram")) == 1
    client().set(manager.VERSION_KEY, "2")  # another process has changed something
    with django_assert_num_queries(1):
        manager.listeners("telegram")


def test_a_change_that_was_not_told_is_seen_all_the_same(make: Make, monkeypatch: pytest.MonkeyPatch):
    row = WorkspaceFactory()
    channel = make(row)
    assert len(manager.listeners("telegram")) == 1
    Channel.objects.filter(pk=channel.pk).update(enabled=False)
    assert len(manager.listeners("telegram")) == 1
    assert outcome(deliver("telegram", said("telegram"))) == "ignored"  # the table has the last word
    monkeypatch.setattr(manager, "MOST_AGE_S", 0.0)
    assert manager.listeners("telegram") == ()


def test_without_valkey_every_look_is_a_fresh_one(make: Make, settings: Any, monkeypatch: pytest.MonkeyPatch):
    channel = make(WorkspaceFactory())
    away = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.2)
    monkeypatch.setattr(manager, "client", lambda: away)
    assert len(manager.listeners("telegram")) == 1
    Channel.objects.filter(pk=channel.pk).update(enabled=False)
    assert manager.listeners("telegram") == ()


def test_one_unreadable_channel_does_not_silence_the_others(make: Make):
    broken, fine = make(WorkspaceFactory()), make(WorkspaceFactory())
    Channel.objects.filter(pk=broken.pk).update(channel_config={"bot_token": "ec1:AAAA"})
    manager.forget()
    assert [one.channel_id for one in manager.listeners("telegram")] == [fine.pk]
