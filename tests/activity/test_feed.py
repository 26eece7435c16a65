"""`GET /workspaces/:id/activity`: filters, order, pages, errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from activity.models import ActivityLog
from tests.activity.factories import logged, received
from tests.clients import admin, agent_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db

KEYS = {
    "id",
    "seq",
    "workspace_id",
    "activity_type",
    "source_id",
    "target_id",
    "method",
    "summary",
    "duration_ms",
    "status",
    "error_detail",
    "created_at",
}


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory()


def feed(workspace: Workspace, **params: Any) -> Any:
    return admin().get(f"/workspaces/{workspace.pk}/activity", **params)


def summaries(workspace: Workspace, **params: Any) -> list[str]:
    answer = feed(workspace, **params)
    assert answer.status_code == 200, answer.content
    return [row["summary"] for row in answer.json()]


def test_a_row_has_every_key_and_omits_empty_bodies(workspace: Workspace) -> None:
    row = logged(workspace, summary="s")
    (shown,) = feed(workspace).json()
    assert set(shown) == KEYS
    assert shown["id"] == str(row.pk)
    assert shown["source_id"] is None
    assert shown["created_at"].endswith("Z")
    assert len(shown["created_at"]) == len("2026-01-31T12:00:00.000000Z")


def test_bodies_are_json_values_not_texts(workspace: Workspace) -> None:
    logged(workspace, request_body={"a": [1]}, response_body="text", tool_trace=[])
    answer = feed(workspace)
    (shown,) = answer.json()
    assert (shown["request_body"], shown["response_body"], shown["tool_trace"]) == ({"a": [1]}, "text", [])
    assert '"status":"ok"' in answer.content.decode()


def test_the_feed_is_newest_first_and_forward_from_a_cursor(workspace: Workspace) -> None:
    first, *_ = [logged(workspace, summary=str(number)) for number in range(4)]
    assert summaries(workspace) == ["3", "2", "1", "0"]
    assert summaries(workspace, since_id=first.pk) == ["1", "2", "3"]
    assert summaries(workspace, since_id=first.pk, limit=2) == ["1", "2"]


def test_rows_of_one_instant_keep_their_order(workspace: Workspace) -> None:
    for number in range(5):
        logged(workspace, summary=str(number))
    ActivityLog.objects.update(created_at=timezone.now())
    assert summaries(workspace) == ["4", "3", "2", "1", "0"]


def test_a_feed_is_one_workspaces(workspace: Workspace) -> None:
    logged(WorkspaceFactory(), summary="theirs")
    assert feed(workspace).json() == []


def test_an_unknown_workspace_is_an_empty_feed_to_an_operator() -> None:
    answer = admin().get(f"/workspaces/{uuid4()}/activity")
    assert (answer.status_code, answer.content) == (200, b"[]")


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        (None, 100),
        ("0", 100),
        ("abc", 100),
        ("-1", 100),
        ("1.5", 100),
        ("7", 7),
        ("500", 500),
        ("9999", 500),
        ("9" * 5000, 500),
    ],
)
def test_the_limit_is_a_number_or_the_default(workspace: Workspace, limit: str | None, count: int) -> None:
    first = logged(workspace)
    rows = [
        ActivityLog(workspace=workspace, activity_type="agent_log", created_at=first.created_at)
        for _ in range(510)
    ]
    ActivityLog.objects.bulk_create(rows)
    answer = feed(workspace, **({} if limit is None else {"limit": limit}))
    assert answer.status_code == 200
    assert len(answer.json()) == count


def test_the_type_filter_may_match_nothing(workspace: Workspace) -> None:
    logged(workspace, summary="log")
    received(workspace, summary="message")
    assert summaries(workspace, type="a2a_receive") == ["message"]
    assert summaries(workspace, type="no such type") == []
    assert summaries(workspace, type="nul\x00") == []


def test_source_tells_the_canvas_from_agents(workspace: Workspace) -> None:
    peer = uuid4()
    received(workspace, summary="user")
    received(workspace, summary="peer", source_id=peer)
    logged(workspace, activity_type="a2a_receive", method="chat_upload_receive", summary="upload")
    logged(workspace, activity_type="a2a_receive", method="delegate_result", summary="copy", source_id=peer)
    assert summaries(workspace, source="canvas") == ["user"]
    assert summaries(workspace, source="agent") == ["peer"]
    assert summaries(workspace, source="agent", type="a2a_receive") == ["copy", "peer"]


def test_a_peer_is_source_or_target(workspace: Workspace) -> None:
    peer = uuid4()
    logged(workspace, summary="from", source_id=peer)
    logged(workspace, summary="to", target_id=peer)
    logged(workspace, summary="other", source_id=uuid4())
    assert summaries(workspace, peer_id=peer) == ["to", "from"]


def test_since_secs_is_a_window(workspace: Workspace) -> None:
    old = logged(workspace, summary="old")
    ActivityLog.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(seconds=90))
    logged(workspace, summary="new")
    assert summaries(workspace, since_secs=60) == ["new"]
    assert summaries(workspace, since_secs=3600) == ["new", "old"]
    assert summaries(workspace, since_secs="9" * 400) == ["new", "old"]


def test_filters_hold_together(workspace: Workspace) -> None:
    peer = uuid4()
    received(workspace, summary="wanted", source_id=peer)
    received(workspace, summary="user")
    logged(workspace, summary="log", source_id=peer)
    assert summaries(workspace, type="a2a_receive", peer_id=peer, source="agent", since_secs=60) == ["wanted"]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"source": "both"}, "source must be 'canvas' or 'agent'"),
        ({"peer_id": "x"}, "peer_id must be a UUID"),
        ({"since_secs": "0"}, "since_secs must be a positive integer"),
        ({"since_secs": "-5"}, "since_secs must be a positive integer"),
        ({"since_secs": "abc"}, "since_secs must be a positive integer"),
        ({"before_ts": "yesterday"}, "before_ts must be an RFC3339 timestamp"),
        ({"before_ts": "2026-13-45T00:00:00Z"}, "before_ts must be an RFC3339 timestamp"),
        ({"before_ts": "2026-01-01T00:00:00"}, "before_ts must be an RFC3339 timestamp"),
    ],
)
def test_a_wrong_filter_is_a_400_that_names_it(workspace: Workspace, params: Any, text: str) -> None:
    answer = feed(workspace, **params)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)


# --- Paging backwards


def test_created_at_pages_back_as_it_was_given(workspace: Workspace) -> None:
    for number in range(6):
        logged(workspace, summary=str(number))
    page = feed(workspace, limit=2).json()
    seen = [row["summary"] for row in page]
    while page:
        page = feed(workspace, limit=2, before_ts=page[-1]["created_at"]).json()
        seen += [row["summary"] for row in page]
    assert seen == ["5", "4", "3", "2", "1", "0"]


def test_an_offset_may_be_written_with_an_unescaped_plus(workspace: Workspace) -> None:
    row = logged(workspace, summary="s")
    later = (row.created_at + timedelta(seconds=1)).isoformat()
    assert summaries(workspace, before_ts=later) == ["s"]
    assert summaries(workspace, before_ts=later.replace("+", " ")) == ["s"]


def test_rows_of_one_instant_are_paged_without_loss_by_their_id(workspace: Workspace) -> None:
    rows = [logged(workspace, summary=str(number)) for number in range(7)]
    ActivityLog.objects.update(created_at=rows[0].created_at)
    page = feed(workspace, limit=3).json()
    seen = [row["summary"] for row in page]
    while page:
        page = feed(workspace, limit=3, before_id=page[-1]["id"]).json()
        seen += [row["summary"] for row in page]
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]


@pytest.mark.parametrize("name", ["since_id", "before_id"])
def test_a_lost_cursor_is_gone(workspace: Workspace, name: str) -> None:
    theirs = logged(WorkspaceFactory())
    logged(workspace)
    for cursor in (uuid4(), theirs.pk, "not-a-uuid", "%00"):
        answer = feed(workspace, **{name: cursor})
        assert answer.status_code == 410, cursor
        assert name in answer.json()["error"]


def test_the_end_of_the_feed_is_an_empty_page(workspace: Workspace) -> None:
    only = logged(workspace)
    assert feed(workspace, since_id=only.pk).json() == []
    assert feed(workspace, before_id=only.pk).json() == []


# --- What a message says, for the SDK


def test_a_message_carries_its_sender_and_its_text(workspace: Workspace) -> None:
    peer = WorkspaceFactory(name="Ada", role="analyst")
    received(workspace, "from a peer", source_id=peer.pk)
    received(workspace, "from the user")
    user, agent = feed(workspace).json()
    assert (user["source"], user["data"]["text"]) == ("canvas_user", "from the user")
    assert agent["source"] == agent["data"]["source"] == "peer_agent"
    assert agent["data"]["source_id"] == str(peer.pk)
    assert (agent["data"]["peer_name"], agent["data"]["peer_role"]) == ("Ada", "analyst")
    assert agent["data"]["text"] == "from a peer"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {
                "params": {
                    "message": {"parts": [{"type": "text", "text": "a"}, {"kind": "text", "text": "b"}]}
                }
            },
            "ab",
        ),
        ({"params": {"message": {"parts": [{"kind": "file"}]}}}, "the summary"),
        ({"params": []}, "the summary"),
        ("just text", "the summary"),
        (None, "the summary"),
    ],
)
def test_the_text_is_the_text_parts_or_the_summary(workspace: Workspace, body: Any, text: str) -> None:
    logged(workspace, activity_type="a2a_receive", request_body=body, summary="the summary")
    (row,) = feed(workspace).json()
    assert row["data"]["text"] == text


def test_the_workspace_reads_its_own_feed(workspace: Workspace) -> None:
    logged(workspace)
    assert len(agent_of(workspace.pk).get(f"/workspaces/{workspace.pk}/activity").json()) == 1


# --- include=peer_info

MESSAGE = {
    "params": {
        "message": {
            "parts": [
                {"kind": "text", "text": "see"},
                {
                    "kind": "file",
                    "file": {"uri": "workspace:/a.png", "name": "a.png", "mimeType": "image/png"},
                },
                {"kind": "file", "file": {"uri": "workspace:/b", "name": "b"}},
                {"kind": "file", "file": {"name": "no uri"}},
                {"kind": "file", "file": "text"},
                "text",
            ]
        }
    }
}
UPLOAD = {"file_id": "f", "name": "c.mp4", "mimeType": "video/mp4", "size": 3, "uri": "platform-pending:w/f"}


@pytest.mark.parametrize(
    ("fields", "attachments"),
    [
        (
            {"method": "message/send", "request_body": MESSAGE},
            [
                {"kind": "image", "uri": "workspace:/a.png", "mime_type": "image/png", "name": "a.png"},
                {"kind": "file", "uri": "workspace:/b", "mime_type": None, "name": "b"},
            ],
        ),
        (
            {"method": "chat_upload_receive", "request_body": UPLOAD},
            [{"kind": "video", "uri": "platform-pending:w/f", "mime_type": "video/mp4", "name": "c.mp4"}],
        ),
        ({"method": "message/send", "request_body": {"params": {"message": {"parts": "x"}}}}, None),
        ({"method": "message/send", "request_body": ["x"]}, None),
        ({"method": "message/send"}, None),
    ],
)
def test_files_of_a_message_are_listed_when_asked_for(
    workspace: Workspace, fields: dict[str, Any], attachments: Any
) -> None:
    logged(workspace, activity_type="a2a_receive", **fields)
    (shown,) = feed(workspace, include="peer_info").json()
    assert shown.get("attachments") == attachments
    assert ("attachments" in shown) is (attachments is not None)
    for other in ({}, {"include": "x"}):
        assert "attachments" not in feed(workspace, **other).json()[0]


def test_the_card_of_a_peer_is_read_from_this_server(workspace: Workspace, settings: Any) -> None:
    settings.EXTERNAL_PLATFORM_URL = "https://org.example"
    known, cardless = WorkspaceFactory(agent_card={"name": "x"}), WorkspaceFactory()
    received(workspace, source_id=cardless.pk)
    received(workspace, source_id=known.pk)
    urls = [row["data"]["agent_card_url"] for row in feed(workspace).json()]
    assert urls == [f"https://org.example/workspaces/{known.pk}/.well-known/agent-card.json", None]
