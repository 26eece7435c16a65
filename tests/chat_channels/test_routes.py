"""Channels over HTTP: what is stored, what is shown, and who may."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from chat_channels.models import Channel
from chat_channels.sealing import MASK
from chat_channels.services.registry import opened
from tests.chat_channels.conftest import Make
from tests.chat_channels.providers import DISCORD_TOKEN, SLACK_TOKEN, TELEGRAM_TOKEN, Provider
from tests.chat_channels.webhooks import CONFIGS, PROVIDERS
from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status

pytestmark = pytest.mark.django_db

TELEGRAM = CONFIGS["telegram"]


def path(row: Any, *more: Any) -> str:
    return "/".join(str(one) for one in (f"/workspaces/{row.pk}/channels", *more))


def created(row: Any, config: Any = TELEGRAM, **fields: Any) -> str:
    answer = admin().post(path(row), {"channel_type": "telegram", "config": config, **fields})
    assert answer.status_code == 201, answer.content
    return str(answer.json()["id"])


def test_the_adapters_are_public_and_describe_their_configuration():
    answer = anonymous().get("/channels/adapters")
    shown = answer.json()
    assert answer.status_code == 200
    assert [one["type"] for one in shown] == ["discord", "lark", "slack", "telegram"]
    for one in shown:
        assert set(one) == {"type", "display_name", "config_schema"}
        for field in one["config_schema"]:
            assert {"key", "label", "type", "required", "sensitive"} <= set(field)
            assert set(field) <= {"key", "label", "type", "required", "sensitive", "placeholder", "help"}
    telegram = {field["key"]: field for field in shown[-1]["config_schema"]}
    assert telegram["bot_token"]["sensitive"] is True
    assert telegram["chat_id"]["required"] is True


def test_a_channel_is_created_shown_masked_and_sealed_at_rest():
    row = WorkspaceFactory()
    body = {"channel_type": "telegram", "config": TELEGRAM, "allowed_users": ["@Ada", 77, "ada"]}
    answer = admin().post(path(row), body)
    assert answer.status_code == 201
    assert set(answer.json()) == {"id", "channel_type", "enabled"}
    assert (answer.json()["channel_type"], answer.json()["enabled"]) == ("telegram", True)
    (shown,) = agent_of(row.pk).get(path(row)).json()
    assert shown["config"] == {"bot_token": MASK, "chat_id": "-100", "webhook_secret": MASK}
    assert (shown["allowed_users"], shown["message_count"]) == (["ada", "77"], 0)
    stored = Channel.objects.get()
    assert stored.channel_config["bot_token"].startswith("ec1:")
    assert stored.channel_config["webhook_secret"].startswith("ec1:")
    assert TELEGRAM["bot_token"] not in str(stored.channel_config)
    assert opened(stored) == TELEGRAM


@pytest.mark.parametrize("channel_type", PROVIDERS)
def test_every_sensitive_value_is_masked_and_sealed(make: Make, channel_type: str):
    row = WorkspaceFactory()
    stored = make(row, channel_type)
    (shown,) = admin().get(path(row)).json()
    plain = opened(Channel.objects.get(pk=stored.pk))
    fields = next(one for one in admin().get("/channels/adapters").json() if one["type"] == channel_type)
    sensitive = {one["key"] for one in fields["config_schema"] if one["sensitive"]}
    assert {key for key, value in shown["config"].items() if value == MASK} == sensitive & set(plain)
    for key in sensitive & set(plain):
        assert plain[key] not in str(stored.channel_config)
        assert plain[key] not in str(shown)


def test_a_list_is_bare_and_takes_no_query_per_row(make: Make, django_assert_max_num_queries: Any):
    row = WorkspaceFactory()
    assert admin().get(path(row)).json() == []
    for channel_type in PROVIDERS:
        make(row, channel_type)
    with django_assert_max_num_queries(2):
        assert len(admin().get(path(row)).json()) == 4


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"config": TELEGRAM}, "channel_type is required"),
        ({"channel_type": "telegram"}, "config"),
        ({"channel_type": "fax", "config": {}}, "unknown channel type"),
        ({"channel_type": "telegram", "config": []}, "must be an object"),
        ({"channel_type": "telegram", "config": {"bot_token": "1:a"}}, "missing required field: chat_id"),
        ({"channel_type": "telegram", "config": TELEGRAM | {"bot_token": "a/b"}}, "bot_token"),
        ({"channel_type": "telegram", "config": TELEGRAM | {"chat_id": {"a": 1}}}, "config.chat_id"),
        ({"channel_type": "telegram", "config": TELEGRAM | {"bot_token": MASK}}, "bot_token"),
        ({"channel_type": "telegram", "config": TELEGRAM | {"webhook_secret": MASK}}, "webhook_secret"),
        ({"channel_type": "telegram", "config": TELEGRAM, "allowed_users": [[1]]}, "allowed_users"),
        ({"channel_type": "telegram", "config": TELEGRAM, "enabled": "yes"}, "true or false"),
        ({"channel_type": "telegram", "config": TELEGRAM, "channel_budget": -1}, "channel_budget"),
        ({"channel_type": "slack", "config": {"bot_token": "x"}}, "missing required field: chat_id"),
        ({"channel_type": "slack", "config": {}}, "needs a bot_token"),
        (
            {"channel_type": "telegram", "config": TELEGRAM | {"chat_id": ",".join(map(str, range(21)))}},
            "at most 20 chats",
        ),
        (
            {"channel_type": "slack", "config": {"webhook_url": "https://evil.test/x"}},
            "https://hooks.slack.com/",
        ),
        ({"channel_type": "slack", "config": {"webhook_url": "http://hooks.slack.com/x"}}, "https://"),
        (
            {"channel_type": "discord", "config": {"webhook_url": "https://discord.com.evil.test/"}},
            "https://",
        ),
        ({"channel_type": "lark", "config": {"webhook_url": "https://169.254.169.254/"}}, "https://open"),
    ],
    ids=range(19),
)
def test_what_cannot_be_a_channel_is_refused(body: dict[str, Any], complaint: str):
    row = WorkspaceFactory()
    answer = admin().post(path(row), body)
    assert answer.status_code == 400, answer.content
    assert complaint in answer.json()["error"]
    assert not Channel.objects.exists()


def test_a_workspace_has_one_channel_of_a_type():
    row = WorkspaceFactory()
    created(row)
    again = admin().post(path(row), {"channel_type": "telegram", "config": TELEGRAM})
    assert (again.status_code, again.json()["error"]) == (
        409,
        "this workspace already has a telegram channel",
    )
    created(WorkspaceFactory())  # another workspace may


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_one_is_made():
    row = WorkspaceFactory()

    def make_one() -> int:
        body = {"channel_type": "telegram", "config": TELEGRAM}
        return int(admin().post(path(row), body).status_code)

    assert sorted(at_once(make_one, make_one)) == [201, 409]


def test_a_masked_value_sent_back_keeps_the_stored_one():
    row = WorkspaceFactory()
    one = created(row)
    (shown,) = admin().get(path(row)).json()
    answer = admin().patch(path(row, one), {"config": {**shown["config"], "chat_id": "-200"}})
    assert (answer.status_code, answer.json()) == (200, {"status": "updated"})
    assert opened(Channel.objects.get()) == {**TELEGRAM, "chat_id": "-200"}


def test_a_change_keeps_what_it_does_not_name_and_removes_what_is_empty():
    row = WorkspaceFactory()
    one = created(row, allowed_users=["ada"])
    assert admin().patch(path(row, one), {"config": {"webhook_secret": None}}).status_code == 200
    assert opened(Channel.objects.get()) == {key: TELEGRAM[key] for key in ("bot_token", "chat_id")}
    admin().patch(path(row, one), {"enabled": False, "channel_budget": 3})
    (shown,) = admin().get(path(row)).json()
    assert (shown["enabled"], shown["channel_budget"], shown["allowed_users"]) == (False, 3, ["ada"])
    admin().patch(path(row, one), {"channel_budget": None, "allowed_users": []})
    (shown,) = admin().get(path(row)).json()
    assert (shown["channel_budget"], shown["allowed_users"]) == (None, [])
    refused = admin().patch(path(row, one), {"config": {"bot_token": ""}})
    assert (refused.status_code, refused.json()["error"]) == (400, "missing required field: bot_token")
    refused = admin().patch(path(row, one), {"config": {"webhook_secret": MASK}})  # there is none to keep
    assert refused.status_code == 400


def test_a_new_value_replaces_one_that_cannot_be_read(settings: Any):
    row = WorkspaceFactory()
    one = created(row)
    settings.SECRETS_ENCRYPTION_KEY = "another key of thirty-two chars!"
    broken = admin().post(path(row, one, "test"))
    assert (broken.status_code, "decrypted" in broken.json()["error"]) == (500, True)
    assert admin().get(path(row)).json()[0]["config"]["bot_token"] == MASK
    assert admin().patch(path(row, one), {"config": {"chat_id": "-200"}}).status_code == 500
    assert admin().patch(path(row, one), {"config": TELEGRAM}).status_code == 200
    assert opened(Channel.objects.get()) == TELEGRAM


def test_a_deleted_channel_is_gone():
    row = WorkspaceFactory()
    one = created(row)
    answer = admin().delete(path(row, one))
    assert (answer.status_code, answer.json()) == (200, {"status": "deleted"})
    assert admin().delete(path(row, one)).status_code == 404
    assert admin().get(path(row)).json() == []


@pytest.mark.parametrize("verb", ["patch", "delete", "send", "test"])
def test_a_channel_of_another_workspace_is_unknown(make: Make, provider: Provider, verb: str):
    owner, other = WorkspaceFactory(), WorkspaceFactory()
    one = make(owner)
    api = agent_of(other.pk)
    for channel_id in (one.pk, uuid4(), "junk"):
        match verb:
            case "patch":
                answer = api.patch(path(other, channel_id), {"enabled": False})
            case "delete":
                answer = api.delete(path(other, channel_id))
            case _:
                answer = api.post(path(other, channel_id, verb), {"text": "hi"})
        assert (answer.status_code, answer.json()["error"]) == (404, "channel not found")
    assert provider.posts == []
    assert Channel.objects.get().enabled


def test_unknown_and_removed_workspaces_have_no_channels():
    gone = WorkspaceFactory(status=Status.REMOVED)
    for workspace_id in (gone.pk, uuid4()):
        answer = admin().get(f"/workspaces/{workspace_id}/channels")
        assert (answer.status_code, answer.json()["error"]) == (404, "workspace not found")


# --- Discover


def discover(**body: Any) -> Any:
    return admin().post("/channels/discover", body)


def test_telegram_chats_are_those_of_the_bots_updates(provider: Provider):
    row = WorkspaceFactory()
    chat = {"id": -100, "title": "Team", "type": "supergroup"}
    provider.updates = [
        {"update_id": 1, "message": {"chat": chat}},
        {"update_id": 2, "my_chat_member": {"chat": {"id": 5, "first_name": "Ada", "type": "private"}}},
        {"update_id": 3, "message": {"chat": chat}},
        {"update_id": 4, "poll": {}},
    ]
    body = {"channel_type": "telegram", "bot_token": TELEGRAM_TOKEN, "workspace_id": str(row.pk)}
    answer = discover(**body)
    assert answer.status_code == 200
    assert answer.json()["chats"] == [
        {"chat_id": "-100", "name": "Team", "type": "supergroup"},
        {"chat_id": "5", "name": "Ada", "type": "private"},
    ]
    assert answer.json()["hint"]
    provider.has_webhook = True
    assert discover(**body).json()["chats"] == []


def test_slack_and_discord_tell_the_chats_of_a_bot(provider: Provider):
    row = str(WorkspaceFactory().pk)
    slack = discover(channel_type="slack", bot_token=SLACK_TOKEN, workspace_id=row).json()
    assert [(one["chat_id"], one["type"]) for one in slack["chats"]] == [
        ("C1", "public_channel"),
        ("C2", "private_channel"),
    ]
    discord = discover(channel_type="discord", bot_token=DISCORD_TOKEN, workspace_id=row).json()
    assert [(one["chat_id"], one["name"]) for one in discord["chats"]] == [
        ("900", "Guild #general"),
        ("902", "Guild #news"),
    ]
    lark = discover(channel_type="lark", bot_token="x", workspace_id=row)
    assert (lark.status_code, "does not tell" in lark.json()["error"]) == (400, True)


@pytest.mark.parametrize("channel_type", ["telegram", "slack", "discord"])
def test_a_token_that_the_provider_does_not_know_is_a_400(provider: Provider, channel_type: str):
    row = str(WorkspaceFactory().pk)
    for token in ("wrong", "a/../b", "with space"):
        answer = discover(channel_type=channel_type, bot_token=token, workspace_id=row)
        assert (answer.status_code, answer.json()["error"]) == (400, "the bot token was not accepted")


def test_the_other_clients_words_are_understood(provider: Provider):
    row = str(WorkspaceFactory().pk)
    answer = discover(type="slack", config={"bot_token": SLACK_TOKEN}, workspace_id=row)
    assert len(answer.json()["chats"]) == 2


def test_a_masked_token_is_the_stored_one(make: Make):
    row, other = WorkspaceFactory(), WorkspaceFactory()
    make(row, "slack")
    found = discover(channel_type="slack", bot_token=MASK, workspace_id=str(row.pk))
    assert len(found.json()["chats"]) == 2
    assert discover(channel_type="slack", bot_token=MASK, workspace_id=str(other.pk)).status_code == 400


def test_a_discovery_names_its_workspace(provider: Provider):
    assert discover(channel_type="slack", bot_token="x").json()["error"] == "workspace_id is required"
    unknown = discover(channel_type="slack", bot_token=SLACK_TOKEN, workspace_id=str(uuid4()))
    assert unknown.status_code == 404
    assert discover(channel_type="slack", bot_token=SLACK_TOKEN, workspace_id="x").status_code == 400
    row = WorkspaceFactory()
    body = {"channel_type": "slack", "bot_token": SLACK_TOKEN, "workspace_id": str(row.pk)}
    assert agent_of(row.pk).post("/channels/discover", body).status_code == 401
    assert provider.asked == []
