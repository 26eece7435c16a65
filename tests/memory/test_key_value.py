"""`/workspaces/:id/memory`: values with versions, conditions and an end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from config.jobs import Job, conditions
from memory.models import KeyValue
from memory.services import key_values as services
from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.outages import database_away
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def row() -> Workspace:
    made: Workspace = WorkspaceFactory()
    return made


def path(row: Workspace, key: str = "") -> str:
    return f"/workspaces/{row.pk}/memory" + (f"/{quote(key, safe='')}" if key else "")


def put(row: Workspace, **body: Any) -> Any:
    return admin().post(path(row), body)


def version(row: Workspace, key: str = "k") -> int | None:
    answer = admin().get(path(row, key))
    return int(answer.json()["version"]) if answer.status_code == 200 else None


def expire(row: Workspace, key: str = "k") -> None:
    KeyValue.objects.filter(workspace_id=row.pk, key=key).update(
        expires_at=timezone.now() - timedelta(seconds=1)
    )


# --- One after the other


@pytest.mark.parametrize("value", [None, 0, False, "", "\u4e16", [1, None], {"a": {"b": [1.5]}}])
def test_a_value_is_read_back_as_it_is(row: Workspace, value: Any) -> None:
    stored = put(row, key="a/b c", value=value)
    assert (stored.status_code, stored.json()) == (200, {"status": "ok", "key": "a/b c", "version": 1})
    found = admin().get(path(row, "a/b c")).json()
    assert (found["key"], found["value"], found["version"], "expires_at" in found) == (
        "a/b c",
        value,
        1,
        False,
    )
    assert put(row, key="a/b c", value=1).json()["version"] == 2


def test_entries_are_listed_by_key_and_deleted_twice(row: Workspace) -> None:
    for key in ("b", "a"):
        put(row, key=key, value=key)
    assert [one["key"] for one in admin().get(path(row)).json()] == ["a", "b"]
    for _ in range(2):
        gone = admin().delete(path(row, "a"))
        assert (gone.status_code, gone.json()) == (200, {"status": "deleted"})
    assert admin().get(path(row, "a")).json() == {"error": "key not found"}
    assert admin().get(path(WorkspaceFactory())).json() == []


def test_a_condition_that_does_not_hold_writes_nothing(row: Workspace) -> None:
    put(row, key="k", value="old")
    refused = put(row, key="k", value="new", if_match_version=7)
    assert (refused.status_code, refused.json()) == (
        409, {"error": "if_match_version mismatch", "expected_version": 7, "current_version": 1},
    )  # fmt: skip
    assert put(row, key="k", value="new", if_match_version=0).status_code == 409
    assert put(row, key="k", value="new", if_match_version=1).json()["version"] == 2
    missing = put(row, key="none", value=1, if_match_version=3)
    text = "if_match_version mismatch: key does not exist"
    assert missing.json() == {"error": text, "expected_version": 3, "current_version": None}
    assert put(row, key="fresh", value=1, if_match_version=0).json()["version"] == 1


def test_an_expired_value_is_nowhere_and_its_number_goes_on(row: Workspace) -> None:
    assert put(row, key="k", value=1, ttl_seconds=60).status_code == 200
    assert "expires_at" in admin().get(path(row, "k")).json()
    expire(row)
    assert (version(row), admin().get(path(row)).json()) == (None, [])
    assert put(row, key="k", value=2, if_match_version=1).json()["current_version"] is None
    assert put(row, key="k", value=2, if_match_version=0).json()["version"] == 2
    put(row, key="k", value=3, ttl_seconds=60)
    put(row, key="k", value=4)  # without a time it stays for good
    assert "expires_at" not in admin().get(path(row, "k")).json()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"value": 1}, "key is required"), ({"key": "", "value": 1}, "key is required"),
        ({"key": 1, "value": 1}, "key is required"), ({"key": "k"}, "value is required"),
        ({"key": "k" * 513, "value": 1}, "key must be"), ({"key": "a\x00", "value": 1}, "key must be"),
        ({"key": "k", "value": {"a": ["\x00"]}}, "NUL"), ({"key": "k", "value": {"\x00": 1}}, "NUL"),
        *[({"key": "k", "value": 1, "ttl_seconds": bad}, "ttl_sec") for bad in (0, 1.5, True, "1", 10**12)],
        *[({"key": "k", "value": 1, "if_match_version": bad}, "if_match") for bad in (-1, 1.5, False, 2**70)],
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(row: Workspace, body: Any, text: str) -> None:
    answer = admin().post(path(row), body)
    assert answer.status_code == 400
    assert text in answer.json()["error"]
    assert not KeyValue.objects.exists()


def test_a_value_has_a_size(row: Workspace) -> None:
    assert put(row, key="k", value="x" * (1024 * 1024 - 2)).status_code == 200
    assert put(row, key="k", value="x" * (1024 * 1024 - 1)).status_code == 413
    assert version(row) == 1


def test_only_operators_and_the_workspace_itself(row: Workspace) -> None:
    other = agent_of(WorkspaceFactory().pk)
    put(row, key="k", value="secret")
    for api, status in ((anonymous(), 401), (other, 401), (agent_of(row.pk), 200)):
        assert api.get(path(row)).status_code == status
        assert api.get(path(row, "k")).status_code == status
        assert api.post(path(row), {"key": "k2", "value": 1}).status_code == status
    assert other.delete(path(row, "k")).status_code == 401
    assert version(row) == 1


def test_a_database_that_is_away_gives_no_part_of_a_list(row: Workspace) -> None:
    put(row, key="k", value=1)
    with database_away():
        assert admin().get(path(row)).status_code in {500, 503}


# --- At once


def test_of_many_who_create_exactly_one_does(row: Workspace) -> None:
    answers = at_once(*[lambda n=n: put(row, key="k", value=n, if_match_version=0) for n in range(8)])
    assert sorted(one.status_code for one in answers) == [200] + [409] * 7
    assert version(row) == 1


def test_conditional_increments_lose_none(row: Workspace) -> None:
    put(row, key="k", value=0)

    def increment() -> None:
        for _ in range(5):
            while True:
                found = admin().get(path(row, "k")).json()
                wish = {"key": "k", "value": found["value"] + 1, "if_match_version": found["version"]}
                if put(row, **wish).status_code == 200:
                    break

    assert at_once(*[increment] * 4) == [None] * 4
    assert admin().get(path(row, "k")).json()["value"] == 20
    assert version(row) == 21


def test_plain_writes_at_once_each_have_a_number_of_their_own(row: Workspace) -> None:
    answers = at_once(*[lambda n=n: put(row, key="k", value=n) for n in range(8)])
    assert sorted(one.json()["version"] for one in answers) == list(range(1, 9))


# --- Time and purge


def test_the_sweep_takes_what_is_over_in_batches_and_nothing_else(row: Workspace, monkeypatch: Any) -> None:
    monkeypatch.setattr(services, "BATCH", 2)
    for key in ("a", "b", "c", "kept", "later"):
        put(row, key=key, value=1, **({"ttl_seconds": 600} if key != "kept" else {}))
    for key in ("a", "b", "c"):
        expire(row, key)
    assert [services.forget_expired() for _ in range(3)] == [2, 1, 0]
    assert list(KeyValue.objects.order_by("key").values_list("key", flat=True)) == ["kept", "later"]


def test_the_sweep_reads_an_index_and_can_be_switched_off(settings: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute(
            "EXPLAIN SELECT id FROM workspace_memory WHERE expires_at <= now() ORDER BY expires_at"
        )
        plan = " ".join(line for (line,) in cursor.fetchall())
        cursor.execute("RESET enable_seqscan")
    assert "workspace_memory_expiry" in plan
    settings.MEMORY_SWEEP_INTERVAL_S = 0
    assert conditions[Job.MEMORY_SWEEPER]() is False


def test_a_purge_takes_the_memory_along(row: Workspace) -> None:
    put(row, key="k", value=1)
    Workspace.objects.filter(pk=row.pk).delete()
    assert not KeyValue.objects.exists()


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
NAMES = st.text("abc", max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@effort(deadline=None, derandomize=True, max_examples=40)
@given(value=JSON)
def test_any_json_comes_back(value: Any) -> None:
    workspace = WorkspaceFactory()
    try:
        assert put(workspace, key="k", value=value).status_code == 200
        assert admin().get(path(workspace, "k")).json()["value"] == value
    finally:
        workspace.delete()
