"""What the console shows of rooms: beginnings and names, never a value, a message's words or a credential."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from a2a.models import KeptKind, QueueItem
from access.models import TokenKind, WorkspaceAuthToken
from access.services import mint_token
from chat_channels.models import Channel, ChannelMessage
from memory.admin import PREVIEW_CHARS
from memory.models import AgentMemory, KeyValue, OutboxEntry
from memory_store import services as store
from memory_store.contract import Write
from memory_store.models import MemoryRecord
from schedules.admin import PREVIEW_CHARS as PROMPT_CHARS
from tests.console.conftest import login, text_of
from tests.schedules.factories import ScheduleFactory
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db
HIDDEN = "do not show this"


@pytest.fixture
def browser() -> Client:
    return login("viewer")


def pages_of(browser: Client, row: Any) -> str:
    """The list and the page of a row."""
    meta = row._meta
    name = f"admin:{meta.app_label}_{meta.model_name}"
    shown = text_of(browser.get(reverse(f"{name}_changelist")))
    return shown + text_of(browser.get(reverse(f"{name}_change", args=[row.pk])))


def test_a_memory_is_shown_by_its_beginning(browser: Client):
    row = WorkspaceFactory(name="Author")
    long = "the harbour " + "x" * PREVIEW_CHARS + HIDDEN
    memory = AgentMemory.objects.create(workspace=row, content=long, scope="TEAM")
    shown = pages_of(browser, memory)
    assert "the harbour" in shown
    assert "Author" in shown
    assert HIDDEN not in shown


def test_a_record_is_shown_by_its_beginning(browser: Client):
    store.put_namespace("team:a", "team")
    record = store.commit("team:a", Write("the harbour " + "x" * PREVIEW_CHARS + HIDDEN))
    shown = pages_of(browser, MemoryRecord.objects.get(pk=record))
    assert "team:a" in shown
    assert "the harbour" in shown
    assert HIDDEN not in shown


def test_a_channel_is_shown_without_its_configuration_and_what_was_said(browser: Client):
    row = WorkspaceFactory(name="Speaker")
    config = {"bot_token": f"ec0:{HIDDEN}", "chat_id": HIDDEN}
    channel = Channel.objects.create(
        workspace=row, channel_type="telegram", channel_config=config, allowed_users=[HIDDEN]
    )
    message = ChannelMessage.objects.create(
        channel=channel,
        direction="inbound",
        status="failed",
        error="not told",
        username=HIDDEN,
        text=HIDDEN,
        reply=HIDDEN,
    )
    for one, expected in ((channel, "telegram"), (message, "not told")):
        shown = pages_of(browser, one)
        assert "Speaker" in shown
        assert expected in shown
        assert HIDDEN not in shown


def test_a_prompt_is_shown_by_its_beginning(browser: Client):
    row = ScheduleFactory(prompt="the harbour " + "x" * PROMPT_CHARS + HIDDEN, name="morning")
    shown = pages_of(browser, row)
    assert "morning" in shown
    assert "the harbour" in shown
    assert HIDDEN not in shown


def test_values_messages_and_credentials_are_not_shown(browser: Client):
    row = WorkspaceFactory(name="Owner")
    token = mint_token(workspace_id=row.pk, kind=TokenKind.API)
    kept = WorkspaceAuthToken.objects.get(workspace=row)
    given = {"words": HIDDEN}
    for one in (
        KeyValue.objects.create(workspace=row, key="k", value=given),
        OutboxEntry.objects.create(op="commit", namespace="team:a", payload=given),
        QueueItem.objects.create(workspace=row, caller_kind=KeptKind.CANVAS, body=given),
        kept,
    ):
        shown = pages_of(browser, one)
        assert HIDDEN not in shown
        assert token not in shown
        assert bytes(kept.token_hash).hex() not in shown


@pytest.mark.parametrize(
    "path",
    [
        "memory/keyvalue/?value__icontains=do",
        "memory/agentmemory/?content__contains=do",
        "schedules/schedule/?prompt__startswith=do",
        "access/workspaceauthtoken/?token_hash__startswith=a",
        "console/operatoraction/?client_address__startswith=1",
    ],
)
def test_what_is_not_shown_cannot_be_asked_for_by_a_filter(browser: Client, path: str):
    """An answer that depends on a hidden column tells it, letter by letter."""
    answer = browser.get(f"/console/{path}")
    assert (answer.status_code, "e=1" in answer.get("Location", "")) in {(302, True), (400, False)}
    assert browser.get("/console/provisioning/provisionrun/?state__exact=queued").status_code == 200
