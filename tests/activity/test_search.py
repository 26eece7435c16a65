"""`GET /workspaces/:id/session-search`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from activity import search
from tests.activity.factories import logged, received
from tests.clients import admin, agent_of, anonymous
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory()


def found(workspace: Workspace, **params: Any) -> list[Any]:
    answer = admin().get(f"/workspaces/{workspace.pk}/session-search", **params)
    assert answer.status_code == 200, answer.content
    rows: list[Any] = answer.json()
    return rows


def contents(workspace: Workspace, q: str) -> list[str]:
    return [row["content"] for row in found(workspace, q=q)]


def test_an_item_tells_what_it_is(workspace: Workspace) -> None:
    row = logged(workspace, summary="deployed", method="m", request_body={"a": 1})
    (item,) = found(workspace, q="deployed")
    assert item == {
        "kind": "activity",
        "id": str(row.pk),
        "workspace_id": str(workspace.pk),
        "label": "agent_log",
        "content": "deployed",
        "method": "m",
        "status": "ok",
        "created_at": item["created_at"],
        "request_body": {"a": 1},
    }


@pytest.mark.parametrize("q", ["NEEDLE", " needle ", "eedl"])
@pytest.mark.parametrize(
    "fields",
    [
        {"summary": "a needle here"},
        {"method": "find/needle"},
        {"status": "needle"},
        {"activity_type": "needle_type"},
        {"request_body": {"deep": ["the needle"]}},
        {"response_body": {"result": "needle"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_text_is_found_wherever_it_stands(workspace: Workspace, q: str, fields: dict[str, Any]) -> None:
    row = logged(workspace, **fields)
    logged(workspace, summary="hay")
    logged(WorkspaceFactory(), **fields)
    assert [item["id"] for item in found(workspace, q=q)] == [str(row.pk)]


@pytest.mark.parametrize("q", ["50%", "a_b", "c\\d", "%", "_", "\\"])
def test_signs_of_patterns_mean_themselves(workspace: Workspace, q: str) -> None:
    logged(workspace, activity_type="error", summary="plain text, 500 axb cxd")
    logged(workspace, activity_type="error", summary=f"with {q} in it")
    assert contents(workspace, q) == [f"with {q} in it"]


def test_without_a_text_everything_is_found_newest_first(workspace: Workspace) -> None:
    for number in range(3):
        logged(workspace, summary=str(number))
    assert [item["content"] for item in found(workspace)] == ["2", "1", "0"]
    assert [item["content"] for item in found(workspace, q="   ")] == ["2", "1", "0"]
    assert found(workspace, q="nowhere") == []


@pytest.mark.parametrize(("limit", "count"), [(None, 50), ("3", 3), ("0", 50), ("x", 50), ("9999", 200)])
def test_the_limit_is_a_number_or_the_default(workspace: Workspace, limit: str | None, count: int) -> None:
    for _ in range(201):
        received(workspace)
    assert len(found(workspace, **({} if limit is None else {"limit": limit}))) == count


def test_what_else_remembers_joins_in_by_time(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    logged(workspace, summary="old")

    def memories(workspace_id: UUID, text: str, limit: int) -> list[dict[str, Any]]:
        assert (workspace_id, text, limit) == (workspace.pk, "o", 50)
        return [{"kind": "memory", "id": "m", "content": "o", "created_at": timezone.now()}]

    monkeypatch.setattr(search, "sources", [memories])
    logged_later = timezone.now()
    assert [item["kind"] for item in found(workspace, q="o")] == ["memory", "activity"]
    assert logged_later


def test_a_search_that_takes_too_long_is_a_503(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "STATEMENT_MS", 50)
    monkeypatch.setattr(search, "_FOUND", "SELECT NULL::uuid FROM pg_sleep(5)")
    answer = admin().get(f"/workspaces/{workspace.pk}/session-search", q="x")
    assert answer.status_code == 503
    assert "too long" in answer.json()["error"]
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


def test_it_is_the_workspaces_own(workspace: Workspace) -> None:
    path = f"/workspaces/{workspace.pk}/session-search"
    assert agent_of(workspace.pk).get(path).status_code == 200
    assert agent_of(WorkspaceFactory().pk).get(path).status_code == 401
    assert anonymous().get(path).status_code == 401
