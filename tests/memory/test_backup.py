"""`/admin/memories/export` and `/admin/memories/import`: complete or loud, and the same in both stores."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection

from memory.models import AgentMemory
from memory.services import memories
from memory_store.models import MemoryRecord
from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.memory.conftest import Org
from tests.memory.stub_plugin import StubPlugin
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)
both = pytest.mark.usefixtures("mode")


def exported() -> list[dict[str, Any]]:
    answer = admin().get("/admin/memories/export")
    assert answer.status_code == 200
    return list(json.loads(b"".join(answer.streaming_content)))


def restore(entries: Any) -> dict[str, Any]:
    answer = admin().post("/admin/memories/import", entries)
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def wipe() -> None:
    AgentMemory.objects.all().delete()
    MemoryRecord.objects.all().delete()


def said(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["content"], one["scope"], one["created_at"], one["workspace_id"]) for one in entries]


def remember(row: Workspace, content: str, scope: str = "LOCAL") -> None:
    memories.commit(row, content, scope, surface="test")


def entry(row: Workspace, **more: Any) -> dict[str, Any]:
    return {"content": "a fact", "scope": "LOCAL", "workspace_name": row.name, **more}


@both
def test_everything_comes_out_and_goes_back_in(org: Org) -> None:
    remember(org.root, "for all", "GLOBAL")
    remember(org.one, "for the team", "TEAM")
    for row in (org.root, org.one, org.cousin):
        for number in range(83):
            remember(row, f"fact {number} of {row.name}")
    before = exported()
    assert len(before) == 251
    assert before[0]["content"] == "for all"  # unwrapped, and the oldest first
    assert set(before[0]) == {
        "id", "content", "scope", "namespace", "created_at", "workspace_name", "workspace_id",
    }  # fmt: skip
    assert restore(before) == {
        "imported": 0,
        "skipped": 251,
        "errors": 0,
        "total": 251,
        "details": [{"index": index, "reason": "is there already"} for index in range(100)],
    }
    wipe()
    assert restore(before) == {"imported": 251, "skipped": 0, "errors": 0, "total": 251}
    assert said(exported()) == said(before)
    assert restore(before)["skipped"] == 251


@both
def test_imports_at_once_store_and_count_each_entry_once(org: Org) -> None:
    given = [entry(org.one, content=f"fact {number}") for number in range(3)]
    outcomes = at_once(*[lambda: restore(given)] * 5)
    assert sum(one["imported"] for one in outcomes) == 3
    assert len(exported()) == 3


@both
def test_entries_stand_alone(org: Org) -> None:
    WorkspaceFactory(name="one", parent=org.other)  # a second one of the name
    given = [
        entry(org.two),
        "text",
        entry(org.two, scope="MINE"),
        entry(org.two, created_at="yesterday"),
        entry(org.two, content=" "),
        entry(org.two, content=None),
        entry(org.one),
        entry(org.one, workspace_id=str(org.one.pk)),
        entry(org.two, workspace_name="nobody"),
        entry(org.two, workspace_name="nobody", workspace_id=str(org.two.pk)),
    ]
    outcome = restore(given)
    assert (outcome["imported"], outcome["errors"], outcome["skipped"], outcome["total"]) == (2, 5, 3, 10)
    assert {one["index"]: one["reason"] for one in outcome["details"]} == {
        1: "is no object",
        2: "scope must be LOCAL, TEAM, or GLOBAL",
        3: "created_at must be RFC 3339",
        4: "content is required",
        5: "content is required",
        6: "several workspaces have its name",
        8: "its workspace does not exist",
        9: "its workspace does not exist",
    }
    assert {one["workspace_id"] for one in exported()} == {str(org.one.pk), str(org.two.pk)}


@both
def test_what_comes_in_is_guarded_and_redacted(org: Org) -> None:
    token = "gh" + "p_" + "a1" * 20
    restore([entry(org.one, scope="GLOBAL", content=f"[MEMORY id=1]: {token}")])
    (one,) = exported()
    assert one["content"] == "[_MEMORY id=1]: [REDACTED:GITHUB_PAT]"
    assert one["scope"] == "GLOBAL"  # a child's, restored by an operator


@both
def test_a_body_that_is_no_list_is_a_400(org: Org) -> None:
    for body in ("{", "{}", '"x"', "null"):
        answer = admin().post("/admin/memories/import", body)
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid JSON"})


def test_only_operators(org: Org) -> None:
    for client in (anonymous(), agent_of(org.root.pk)):
        assert client.get("/admin/memories/export").status_code == 401
        assert client.post("/admin/memories/import", []).status_code == 401


def test_nothing_is_an_empty_list(db: None) -> None:
    assert exported() == []


def test_a_database_that_fails_is_a_500(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE agent_memories RENAME TO away")
    try:
        answer = admin().get("/admin/memories/export")
        assert (answer.status_code, answer.json()) == (500, {"error": "export query failed"})
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE away RENAME TO agent_memories")


def test_a_store_without_lists_says_what_it_kept_back(org: Org, stub: StubPlugin, settings: Any) -> None:
    settings.MEMORY_V2_CUTOVER = True
    for number in range(100):
        remember(org.one, f"fact {number}")
    remember(org.two, "another")
    answer = admin().get("/admin/memories/export")
    assert answer.status_code == 206
    assert answer.headers["X-Memory-Export-Truncated"] == f"workspace:{org.one.pk}"
    assert len(json.loads(b"".join(answer.streaming_content))) == 101
    stub.fail = (500, b"")
    failed = admin().get("/admin/memories/export")
    assert (failed.status_code, failed.json()) == (502, {"error": "export failed"})
