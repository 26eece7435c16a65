"""The one writer of the feed: order, texts the database cannot store, the frame that announces a row."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from activity.events import Frame
from activity.models import ActivityLog
from activity.services import complete_activity, log_activity
from config.errors import Conflict
from config.http import rfc3339
from tests.activity.factories import logged
from tests.clients import admin
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

WRITERS, READERS, ROWS = 8, 8, 40


@pytest.mark.django_db(transaction=True)
def test_readers_that_page_while_many_write_see_every_row_once_in_order() -> None:
    workspace = WorkspaceFactory()
    start = str(logged(workspace).pk)
    ended: list[int] = []

    def write() -> None:
        for number in range(ROWS):
            with transaction.atomic():
                Workspace.objects.filter(pk=workspace.pk).exists()
                logged(workspace, summary=str(number))
            if number % 5 == 4:
                connection.close()  # there are fewer connections than writers and readers
        ended.append(1)

    def read() -> list[dict[str, Any]]:
        cursor = start
        seen: list[dict[str, Any]] = []
        while True:
            was_over = len(ended) == WRITERS
            page = admin().get(f"/workspaces/{workspace.pk}/activity", since_id=cursor, limit=100).json()
            connection.close()
            seen += page
            cursor = page[-1]["id"] if page else cursor
            if was_over and not page:
                return seen

    outcomes = at_once(*[write] * WRITERS, *[read] * READERS)
    assert outcomes[:WRITERS] == [None] * WRITERS
    for seen in outcomes[WRITERS:]:
        assert len(seen) == len({row["id"] for row in seen}) == WRITERS * ROWS
        numbers = [row["seq"] for row in seen]
        assert numbers == sorted(set(numbers))
        times = [row["created_at"] for row in seen]
        assert times == sorted(times)


@pytest.mark.django_db(transaction=True)
def test_a_row_waits_for_the_earlier_row_of_its_workspace_only() -> None:
    workspace, other = WorkspaceFactory(), WorkspaceFactory()
    holding, done = threading.Event(), threading.Event()

    def hold() -> int:
        with transaction.atomic():
            row = logged(workspace)
            holding.set()
            assert done.wait(timeout=10)
        return row.seq

    def follow() -> int:
        assert holding.wait(timeout=10)
        assert logged(other).seq > 0  # not held up
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '100ms'")
            with pytest.raises(Exception, match="lock timeout"):
                logged(workspace)
            cursor.execute("RESET lock_timeout")
        done.set()
        return logged(workspace).seq

    first, second = at_once(hold, follow)
    assert first < second


@pytest.mark.django_db
def test_time_never_runs_backwards_in_a_feed() -> None:
    workspace = WorkspaceFactory()
    ahead = timezone.now() + timedelta(hours=1)
    first = logged(workspace)
    ActivityLog.objects.filter(pk=first.pk).update(created_at=ahead)
    assert logged(workspace).created_at == ahead


@pytest.mark.django_db(transaction=True)
def test_a_row_of_an_unknown_workspace_fails_and_leaves_nothing() -> None:
    with pytest.raises(Exception, match="foreign key"):
        log_activity(workspace_id=uuid4(), activity_type="agent_log", announce=True)
    assert not ActivityLog.objects.exists()


@pytest.mark.django_db
def test_what_the_database_cannot_store_is_replaced() -> None:
    row = logged(
        WorkspaceFactory(),
        summary="a\x00b\ud83dc 😀",
        method="m\x00",
        error_detail="\udc00",
        request_body={"k\x00": ["\x00", {"deep": "\ud800"}], "fine": "日本 😀"},
    )
    row.refresh_from_db()
    assert row.summary == "a\ufffdb\ufffdc 😀"
    assert (row.method, row.error_detail) == ("m\ufffd", "\ufffd")
    assert row.request_body == {"k\ufffd": ["\ufffd", {"deep": "\ufffd"}], "fine": "日本 😀"}


@pytest.mark.django_db
def test_long_texts_are_cut_at_characters() -> None:
    row = logged(WorkspaceFactory(), summary="😀" * 3000, error_detail="日" * 9000, status="s" * 40)
    row.refresh_from_db()
    assert row.summary == "😀" * 2000
    assert row.error_detail == "日" * 8192
    assert row.status == "s" * 32


@pytest.mark.django_db
def test_empty_texts_are_null() -> None:
    row = logged(WorkspaceFactory(), summary="", method="", error_detail="", status="")
    row.refresh_from_db()
    assert (row.summary, row.method, row.error_detail, row.status) == (None, None, None, "ok")


# --- ACTIVITY_LOGGED


def announced(row: ActivityLog, published: list[Frame]) -> dict[str, Any]:
    (frame,) = published
    encoded: dict[str, Any] = json.loads(frame.encoded())
    assert encoded["event"] == "ACTIVITY_LOGGED"
    assert encoded["workspace_id"] == str(row.workspace_id)
    return encoded


@pytest.mark.django_db(transaction=True)
def test_the_frame_tells_the_row_and_carries_its_time(valkey: Any, published: list[Frame]) -> None:
    peer = uuid4()
    row = logged(
        WorkspaceFactory(), announce=True, source_id=peer, request_body={"a": 1}, duration_ms=12, summary="s"
    )
    frame = announced(row, published)
    assert frame["timestamp"] == frame["payload"]["created_at"] == rfc3339(row.created_at)
    assert frame["payload"] == {
        "id": str(row.pk),
        "seq": row.seq,
        "created_at": rfc3339(row.created_at),
        "activity_type": "agent_log",
        "method": None,
        "summary": "s",
        "status": "ok",
        "source_id": str(peer),
        "target_id": None,
        "duration_ms": 12,
        "request_body": {"a": 1},
    }


@pytest.mark.django_db(transaction=True)
def test_the_time_of_the_frame_is_the_text_of_the_feed(valkey: Any, published: list[Frame]) -> None:
    workspace = WorkspaceFactory()
    frame = announced(logged(workspace, announce=True), published)
    (row,) = admin().get(f"/workspaces/{workspace.pk}/activity").json()
    assert row["created_at"] == frame["timestamp"]


@pytest.mark.django_db(transaction=True)
def test_a_large_body_is_announced_by_its_size(valkey: Any, published: list[Frame]) -> None:
    row = logged(WorkspaceFactory(), announce=True, response_body={"x": "y" * 65_536})
    payload = announced(row, published)["payload"]
    assert payload["response_body"] == {"truncated": True, "bytes": 65_544}
    row.refresh_from_db()
    assert len(row.response_body["x"]) == 65_536


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("401 from provider: Bearer abcdefghijklmnop", "401 from provider: Bearer [REDACTED]"),
        ('{"api_key": "abcdefghijklmnop"}', '{"api_key": "[REDACTED]"}'),
        ("key sk-abcdefgh12345 refused", "key sk-[REDACTED] refused"),
        ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "jwt [REDACTED]"),
        ("429 rate limited, retry later", "429 rate limited, retry later"),
        ("x" * 5000, "x" * 4096),
    ],
)
def test_the_error_in_a_frame_holds_no_credential(
    valkey: Any, published: list[Frame], detail: str, shown: str
) -> None:
    row = logged(WorkspaceFactory(), announce=True, status="error", error_detail=detail)
    assert announced(row, published)["payload"]["error_detail"] == shown


@pytest.mark.django_db(transaction=True)
def test_a_row_that_is_rolled_back_announces_nothing(valkey: Any, published: list[Frame]) -> None:
    workspace = WorkspaceFactory()
    with pytest.raises(RuntimeError):
        with transaction.atomic():
            logged(workspace, announce=True)
            raise RuntimeError
    assert published == []
    assert not ActivityLog.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_row_may_stay_unannounced(valkey: Any, published: list[Frame]) -> None:
    logged(WorkspaceFactory(), announce=False)
    assert published == []


# --- Completion in place


@pytest.mark.django_db
def test_an_outcome_is_put_into_the_row_that_keeps_its_place(valkey: Any) -> None:
    workspace = WorkspaceFactory()
    row, later = logged(workspace, status="pending", summary="asked"), logged(workspace)
    changed = complete_activity(
        row_id=row.pk, status="ok", response_body={"r": "\x00"}, duration_ms=5, announce=False
    )
    assert changed is not None
    row.refresh_from_db()
    assert (row.status, row.response_body, row.duration_ms) == ("ok", {"r": "\ufffd"}, 5)
    assert (row.summary, row.seq < later.seq) == ("asked", True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("before", "late", "wins"),
    [
        ({"status": "pending"}, {"status": "error", "error_detail": "e"}, True),
        ({"status": "error", "error_detail": "e"}, {"status": "ok", "response_body": {}}, True),
        ({"status": "ok"}, {"status": "error", "error_detail": "late"}, False),
        ({"status": "ok"}, {"status": "ok", "response_body": {"late": "answer"}}, True),
        ({"status": "ok", "response_body": {"a": 1}}, {"status": "error"}, False),
        ({"status": "ok", "response_body": {"a": 1}}, {"status": "ok", "response_body": {"b": 2}}, False),
        ({"status": "pending", "response_body": {"a": 1}}, {"status": "error"}, False),
    ],
)
def test_an_answer_is_never_lost_to_a_later_outcome(
    valkey: Any, published: list[Frame], before: dict[str, Any], late: dict[str, Any], wins: bool
) -> None:
    row = logged(WorkspaceFactory(), **before)
    stored = complete_activity(row_id=row.pk, announce=True, **late)
    assert (stored is not None) is wins
    assert len(published) == int(wins)
    row.refresh_from_db()
    expected = late if wins else before
    assert row.status == expected["status"]
    if "response_body" in before:
        assert row.response_body == before["response_body"]
    if wins and late["status"] == "ok":
        assert row.error_detail is None


@pytest.mark.django_db
def test_nothing_given_overwrites_nothing() -> None:
    row = logged(WorkspaceFactory(), status="pending", summary="s", duration_ms=3, tool_trace=["t"])
    complete_activity(row_id=row.pk, status="error", announce=False)
    row.refresh_from_db()
    assert (row.status, row.summary, row.duration_ms, row.tool_trace) == ("error", "s", 3, ["t"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("key", ["message_id", "idempotency_key"])
def test_a_repeat_is_the_stored_row_however_many_come_at_once(
    valkey: Any, published: list[Frame], key: str
) -> None:
    workspace, other = WorkspaceFactory(), WorkspaceFactory()
    rows = at_once(*[lambda: logged(workspace, announce=True, **{key: "m-1"})] * 6)
    assert len({row.pk for row in rows}) == len(published) == ActivityLog.objects.count() == 1
    assert logged(other, **{key: "m-1"}).pk != rows[0].pk
    assert logged(workspace, **{key: "m-2"}).pk != rows[0].pk


@pytest.mark.django_db
def test_a_delegation_has_one_result_per_kind_of_row() -> None:
    workspace = WorkspaceFactory()
    result = {"method": "delegate_result", "request_body": {"delegation_id": "d-1"}}
    logged(workspace, activity_type="delegation", **result)
    logged(workspace, activity_type="a2a_receive", **result)
    logged(WorkspaceFactory(), activity_type="delegation", **result)
    with pytest.raises(Conflict):
        logged(workspace, activity_type="delegation", **result)
    for _ in range(2):
        logged(workspace, activity_type="delegation", method="delegate_result")
        logged(workspace, activity_type="delegation", **{**result, "method": "delegate"})
    answer = admin().post(f"/workspaces/{workspace.pk}/activity", {"activity_type": "a2a_receive", **result})
    assert answer.status_code == 409


@pytest.mark.django_db
def test_the_lines_of_one_delegation_are_found_by_index() -> None:
    workspace = WorkspaceFactory()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO activity_logs"
            " (id, workspace_id, activity_type, method, status, request_body, created_at)"
            " SELECT gen_random_uuid(), %s, 'delegation', 'delegate', 'ok',"
            " jsonb_build_object('delegation_id', 'd-' || n), now() FROM generate_series(1, 20000) n",
            [workspace.pk],
        )
        cursor.execute("ANALYZE activity_logs")
        cursor.execute(
            "EXPLAIN SELECT id FROM activity_logs WHERE workspace_id = %s AND method = 'delegate'"
            " AND request_body ->> 'delegation_id' = 'd-7'",
            [workspace.pk],
        )
        assert "activity_logs_delegation" in str(cursor.fetchall())
