"""Channels that a template declares: stored with their workspace, sealed; what cannot be is told, and why."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from chat_channels import manager
from chat_channels.models import Channel
from chat_channels.sealing import MASK
from chat_channels.services.registry import opened
from orgimport.channels import declared
from orgimport.services import Import, Mode, import_org
from orgimport.services.channels import store_channels
from orgimport.sources import read_template
from tests.clients import admin
from tests.orgimport.conftest import Put, post
from tests.outages import statements_fail
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)

TELEGRAM = {"type": "telegram", "config": {"bot_token": "1:abc", "chat_id": -100}}
SLACK = {"type": "slack", "config": {"bot_token": "xoxb-1", "chat_id": "C1"}}


@pytest.fixture(autouse=True)
def _sealed(settings: Any, valkey: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time the manager was told to load again."""
    seen: list[str] = []
    tell = manager._tell
    monkeypatch.setattr(manager, "_tell", lambda: (seen.append("reload"), tell())[1])
    return seen


def org(*channels: Any, **node: Any) -> dict[str, Any]:
    return {"name": "Firm", "workspaces": [{"name": "Lead", "channels": list(channels), **node}]}


def imported(*channels: Any, **more: Any) -> dict[str, Any]:
    """The entry of the one workspace."""
    answer = post(template=org(*channels), **more)
    assert answer.status_code == 201, answer.content
    return dict(answer.json()["workspaces"][0])


def test_a_declared_channel_is_stored_sealed_and_named(reloads: list[str]):
    entry = imported({**TELEGRAM, "allowed_users": ["@Ada", 5], "enabled": False}, SLACK)
    assert entry["channels"] == ["telegram", "slack"]
    assert "channels_skipped" not in entry
    row = Channel.objects.get(channel_type="telegram")
    assert str(row.workspace_id) == entry["id"]
    assert row.channel_config["bot_token"].startswith("ec1:")
    assert opened(row) == {"bot_token": "1:abc", "chat_id": "-100"}
    assert (row.enabled, row.allowed_users) == (False, ["ada", "5"])
    shown = admin().get(f"/workspaces/{entry['id']}/channels").json()
    assert {one["config"]["bot_token"] for one in shown} == {MASK}
    assert reloads == ["reload"]


@pytest.mark.parametrize(
    ("channel", "kind", "reason"),
    [
        ({}, "", "empty type"),
        ({"type": "  "}, "", "empty type"),
        ({"type": 5}, "", "empty type"),
        ({"type": "fax"}, "fax", "unknown adapter"),
        ({"type": "telegram"}, "telegram", "missing required field: bot_token"),
        ({"type": "slack", "config": {"webhook_url": "https://evil.test/x"}}, "slack",
         "webhook_url must begin with https://hooks.slack.com/"),
        ({"type": "slack", "config": {"chat_id": ["a"]}}, "slack",
         "config.chat_id must be a text, a number or true or false"),
        ({"type": "slack", "config": "x"}, "slack", "config must be a mapping, and allowed_users a list"),
        ({**SLACK, "allowed_users": "ada"}, "slack", "config must be a mapping, and allowed_users a list"),
        ({**SLACK, "enabled": "no"}, "slack", "enabled must be true or false"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_cannot_be_stored_is_told_with_its_reason(channel: Any, kind: str, reason: str):
    entry = imported(channel, TELEGRAM)
    assert entry["channels_skipped"] == [{"workspace": "Lead", "type": kind, "reason": reason}]
    assert entry["channels"] == ["telegram"]


def test_a_variable_without_a_value_names_the_placeholder_and_costs_nothing_else(
    put: Put, reloads: list[str], settings: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NOT_FOR_TEMPLATES", "the server's own secret")
    monkeypatch.setenv("ALLOWED", "C7")
    settings.ORG_IMPORT_ENV_ALLOWLIST = ["ALLOWED"]
    put("firm/.env", "TOKEN=1:abc\nTWISTED=a${INNER}\n")
    put(
        "firm/org.yaml",
        """
name: Firm
workspaces:
  - name: Lead
    channels:
      - {type: telegram, config: {bot_token: "${TOKEN}", chat_id: "${CHAT}", webhook_secret: $SECRET}}
      - {type: slack, config: {bot_token: "x-$TOKEN", chat_id: "${ALLOWED}"}}
    children:
      - name: Clerk
        channels:
          - {type: discord, config: {webhook_url: "${NOT_FOR_TEMPLATES}"}}
          - {type: slack, config: {bot_token: "$5", chat_id: "${A:-b}"}}
          - {type: lark, config: {webhook_url: "${TWISTED}"}}
""",
    )
    answer = post(dir="firm")
    lead, clerk = answer.json()["workspaces"]
    assert lead["channels_skipped"] == [
        {"workspace": "Lead", "type": "telegram", "reason": "missing env: [${CHAT}, $SECRET]"}
    ]
    assert lead["channels"] == ["slack"]
    assert opened(Channel.objects.get(workspace_id=lead["id"])) == {"bot_token": "x-1:abc", "chat_id": "C7"}
    assert clerk["channels_skipped"] == [
        {"workspace": "Clerk", "type": "discord", "reason": "missing env: [${NOT_FOR_TEMPLATES}]"},
        {"workspace": "Clerk", "type": "lark", "reason": "missing env: [${TWISTED}]"},
    ]
    assert opened(Channel.objects.get(workspace_id=clerk["id"])) == {"bot_token": "$5", "chat_id": "${A:-b}"}
    assert "the server's own secret" not in answer.content.decode()
    assert reloads == ["reload"]


def test_of_two_of_one_provider_the_later_counts():
    second = {"type": "telegram", "config": {"bot_token": "2:def", "chat_id": "5"}}
    entry = imported(TELEGRAM, second)
    assert entry["channels"] == ["telegram"]
    assert entry["channels_skipped"] == [
        {"workspace": "Lead", "type": "telegram", "reason": "declared again below"}
    ]
    assert opened(Channel.objects.get())["bot_token"] == "2:def"


def test_nothing_is_stored_in_clear_when_the_key_is_none(settings: Any, reloads: list[str]):
    settings.SECRETS_ENCRYPTION_KEYS = ["2:nonsense"]
    template = read_template(org(TELEGRAM, external=True), key="", root=None)
    row = Workspace.objects.create(name="Lead", tier=3)
    (node,) = template.roots
    assert declared(node, row.pk).skipped == ()
    kept = store_channels([(row.pk, node)])[row.pk]
    assert kept.skipped == (("telegram", "channel config encryption failed"),)
    assert not Channel.objects.exists()


def test_the_expanded_config_is_not_logged(capfd: pytest.CaptureFixture[str], caplog: Any):
    imported(TELEGRAM, {"type": "lark", "config": {"webhook_url": "http://secret.test/hook"}})
    shown = caplog.text + "".join(capfd.readouterr())
    assert "1:abc" not in shown
    assert "secret.test" not in shown


def test_a_second_import_touches_no_channel(reloads: list[str]):
    imported(TELEGRAM)
    Channel.objects.update(enabled=False)
    entry = imported(SLACK)
    assert entry["skipped"] is True
    assert "channels" not in entry
    assert list(Channel.objects.values_list("channel_type", "enabled")) == [("telegram", False)]
    assert reloads == ["reload"]


def test_a_level_that_fails_leaves_no_channel():
    with statements_fail('INSERT INTO "structure_events"'):
        answer = post(template=org(TELEGRAM))
    assert (answer.status_code, answer.json()["count"]) == (207, 0)
    assert not Channel.objects.exists()
    assert not Workspace.objects.filter(name="Lead").exists()


def test_a_channel_that_the_database_refuses_rolls_the_level_back():
    with statements_fail('INSERT INTO "workspace_channels"'):
        answer = post(template=org(TELEGRAM))
    assert (answer.status_code, answer.json()["count"]) == (207, 0)
    assert not Workspace.objects.filter(name="Lead").exists()
    assert imported(TELEGRAM)["channels"] == ["telegram"]


# --- Reconcile


def test_a_reconcile_makes_the_channels_as_declared(reloads: list[str]):
    imported(TELEGRAM)
    Channel.objects.update(enabled=False)
    reloads.clear()
    changed = {"type": "telegram", "config": {"bot_token": "9:new", "chat_id": "7"}}
    entry = imported(changed, SLACK, {"type": "fax"}, mode="reconcile")
    assert (entry["refreshed"], entry["channels"]) == (True, ["telegram", "slack"])
    assert entry["channels_skipped"] == [{"workspace": "Lead", "type": "fax", "reason": "unknown adapter"}]
    row = Channel.objects.get(channel_type="telegram")
    assert (opened(row)["bot_token"], row.enabled) == ("9:new", True)
    assert Channel.objects.count() == 2
    assert reloads == ["reload"]


def test_a_second_reconcile_changes_nothing(reloads: list[str]):
    imported(TELEGRAM, SLACK)
    before = list(Channel.objects.order_by("pk").values())
    reloads.clear()
    entry = imported(TELEGRAM, SLACK, mode="reconcile")
    assert entry["channels"] == ["telegram", "slack"]
    assert list(Channel.objects.order_by("pk").values()) == before
    assert reloads == []


def test_a_reconcile_leaves_channels_that_people_made():
    entry = imported(TELEGRAM)
    made = {"channel_type": "slack", "config": SLACK["config"]}
    assert admin().post(f"/workspaces/{entry['id']}/channels", made).status_code == 201
    imported(TELEGRAM, mode="reconcile")
    assert Channel.objects.count() == 2


def test_a_refresh_that_the_database_refuses_is_told():
    imported()
    with statements_fail('INSERT INTO "workspace_channels"'):
        entry = imported(TELEGRAM, mode="reconcile")
    (skipped,) = entry["channels_skipped"]
    assert (skipped["type"], "database" in skipped["reason"]) == ("telegram", True)


# --- Budgets


@pytest.mark.parametrize("mode", [Mode.MERGE, Mode.RECONCILE])
def test_channels_cost_statements_per_level_and_not_per_node(mode: Mode, reloads: list[str]):
    def template(nodes: int) -> Any:
        made = [
            {"name": f"Node {number}", "external": True, "channels": [TELEGRAM, SLACK]}
            for number in range(nodes)
        ]
        body = {
            "name": f"Wide {nodes}",
            "workspaces": [{"name": f"Top {nodes}", "external": True, "children": made}],
        }
        return read_template(body, key=f"wide-{nodes}", root=None)

    Workspace.objects.create(name="Another root", tier=3)  # its place is asked for
    counts = {}
    for nodes in (3, 60):
        spent = []
        for _ in range(2):
            with CaptureQueriesContext(connection) as queries:
                import_org(Import(template(nodes), None, "", "test", mode))
            spent.append(len(queries))
        counts[nodes] = spent
    assert counts[3][0] == counts[60][0]
    assert counts[60][0] <= 20 + 12 * 2 + 8
    assert Channel.objects.count() == 2 * 63
    if mode == Mode.MERGE:
        assert counts[3][1] == counts[60][1]
    assert reloads == ["reload", "reload"]
