"""Memories that workspaces are born with: created alone, or by an org template."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from django.db import connection

from activity.models import ActivityLog
from memory.backends.local import LocalBackend
from memory.models import AgentMemory, OutboxEntry
from memory.services import outbox
from memory_store.models import MemoryRecord
from provisioning import dispatch
from tests.clients import admin
from tests.memory.stub_plugin import StubPlugin
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)
ORG = """
name: Harbour
global_memories:
  - content: The harbour is in Oslo.
defaults:
  runtime: langgraph
  initial_memories:
    - content: We speak Norwegian.
      scope: team
workspaces:
  - name: Master
    initial_memories:
      - content: I am the master.
      - content: I am the master.
      - content: Not for me.
        scope: everybody
    children:
      - name: Pilot
"""


@pytest.fixture(autouse=True)
def _no_compute() -> Any:
    dispatch.wire(None)
    yield
    dispatch.choose_again()


def create(**fields: Any) -> Any:
    return admin().post("/workspaces", {"name": "one", "runtime": "langgraph", **fields})


def kept() -> list[tuple[str, str, str]]:
    """(name of the author, scope, text) of what is stored, in whichever store."""
    rows = AgentMemory.objects.values_list("workspace__name", "scope", "content")
    names = {str(row.pk): row.name for row in Workspace.objects.all()}
    scopes = {"workspace": "LOCAL", "team": "TEAM", "org": "GLOBAL"}
    records = [
        (
            names[row.propagation["source_workspace_id"]],
            scopes[row.namespace_id.partition(":")[0]],
            row.content,
        )
        for row in MemoryRecord.objects.all()
    ]
    return sorted([*rows, *records])


def deliver() -> None:
    """What a worker does when it is rung for; nothing in the first store."""
    outbox.deliver()
    assert not OutboxEntry.objects.exists()


@pytest.mark.usefixtures("mode")
def test_a_workspace_is_born_with_what_it_is_given() -> None:
    answer = create(
        initial_memories=[
            {"content": "mine"},
            {"content": "ours", "scope": "team"},
            {"content": "for all", "scope": "GLOBAL"},
            {"content": "mine"},
            {"content": "", "scope": "LOCAL"},
            {"content": "x", "scope": "everybody"},
            {"content": 5},
            "text",
            {},
        ]
    )
    assert answer.status_code == 201
    deliver()
    assert kept() == [("one", "GLOBAL", "for all"), ("one", "LOCAL", "mine"), ("one", "TEAM", "ours")]


@pytest.mark.usefixtures("mode")
def test_a_child_is_not_born_with_words_for_the_org() -> None:
    parent = create(name="root").json()["id"]
    create(
        parent_id=parent, initial_memories=[{"content": "for all", "scope": "GLOBAL"}, {"content": "mine"}]
    )
    deliver()
    assert kept() == [("one", "LOCAL", "mine")]


@pytest.mark.usefixtures("mode")
def test_a_long_one_is_cut_between_characters_once_the_credentials_are_gone() -> None:
    token = "gh" + "p_" + "a1" * 20
    text = "\u4e16" * 33_330 + f" {token} " + "\u4e16" * 20_000
    assert create(initial_memories=[{"content": text}]).status_code == 201
    deliver()
    ((_, _, content),) = kept()
    assert 99_997 <= len(content.encode()) <= 100_000
    assert "ghp_" not in content


@pytest.mark.usefixtures("mode")
def test_an_org_is_imported_with_its_memories_once() -> None:
    body = {"template": yaml.safe_load(ORG)}
    for _ in range(2):
        answer = admin().post("/org/import", body)
        assert answer.status_code == 201, answer.content
        deliver()
    assert kept() == [
        ("Master", "GLOBAL", "The harbour is in Oslo."),
        ("Master", "LOCAL", "I am the master."),
        ("Pilot", "TEAM", "We speak Norwegian."),
    ]


def test_a_word_for_the_org_is_noted(org: Any) -> None:
    create(initial_memories=[{"content": "for all", "scope": "GLOBAL"}])
    assert ActivityLog.objects.filter(activity_type="memory_write_global").count() == 1


def test_memories_that_cannot_be_stored_cost_no_workspace() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE agent_memories RENAME TO away")
    try:
        assert create(initial_memories=[{"content": "mine"}]).status_code == 201
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE away RENAME TO agent_memories")
    assert Workspace.objects.filter(name="one").exists()


def test_a_plugin_that_is_away_gets_them_later(stub: StubPlugin, settings: Any) -> None:
    settings.MEMORY_V2_CUTOVER = True
    stub.fail = (503, b"")
    workspace_id = create(initial_memories=[{"content": "mine"}]).json()["id"]
    assert outbox.deliver() == 0
    entry = OutboxEntry.objects.get()
    assert (entry.attempts, entry.last_error) == (1, "internal: status 503")
    stub.fail = None
    OutboxEntry.objects.update(next_attempt_at=entry.created_at)
    deliver()
    (one,) = stub.records.values()
    assert (one["namespace"], one["content"], one["source"]) == (
        f"workspace:{workspace_id}",
        "mine",
        "runtime",
    )


def test_a_delivery_that_is_made_twice_stores_once(primary: None, monkeypatch: Any) -> None:
    """The process dies after the store has it and before the entry is gone."""
    create(initial_memories=[{"content": "mine"}])
    entry = OutboxEntry.objects.get()
    deliver()
    OutboxEntry.objects.bulk_create([entry])
    deliver()
    assert MemoryRecord.objects.count() == 1
    assert LocalBackend().capabilities()
