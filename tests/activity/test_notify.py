"""`POST /workspaces/:id/notify`: an agent's message to the person at the canvas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection

from activity.events import Frame
from activity.models import ActivityLog, MetricCounter
from activity.tally import tally
from tests.clients import Api, admin, agent_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)

FILE = {"uri": "workspace:/a.txt", "name": "a.txt", "mimeType": "text/plain", "size": 3}


@pytest.fixture
def workspace(valkey: Any) -> Workspace:
    return WorkspaceFactory(name="Ada")


@pytest.fixture
def agent(workspace: Workspace) -> Api:
    return agent_of(workspace.pk)


def notify(caller: Api, workspace: Workspace, body: Any) -> tuple[int, Any]:
    answer = caller.post(f"/workspaces/{workspace.pk}/notify", body)
    return answer.status_code, answer.json()


def shown(published: list[Frame]) -> Any:
    (frame,) = published
    encoded = json.loads(frame.encoded())
    assert encoded["event"] == "AGENT_MESSAGE"
    return encoded["payload"]


def test_a_message_is_a_row_and_a_bubble(workspace: Workspace, agent: Api, published: list[Frame]) -> None:
    assert notify(agent, workspace, {"message": "done", "type": "ignored"}) == (200, {"status": "sent"})
    row = ActivityLog.objects.get()
    assert (row.activity_type, row.method, row.status) == ("a2a_receive", "notify", "ok")
    assert (row.source_id, row.target_id) == (None, None)
    assert row.response_body == {"result": "done"}
    assert shown(published) == {"message": "done", "workspace_id": str(workspace.pk), "name": "Ada"}


def test_attachments_keep_exactly_their_keys(
    workspace: Workspace, agent: Api, published: list[Frame]
) -> None:
    second = {"uri": "workspace:/b", "name": "b"}
    body = {"message": "see", "attachments": [{**FILE, "extra": 1}, second]}
    assert notify(agent, workspace, body)[0] == 200
    parts = ActivityLog.objects.get().response_body["parts"]
    assert parts == [{"kind": "file", "file": FILE}, {"kind": "file", "file": second}]
    assert shown(published)["attachments"] == [FILE, second]


@pytest.mark.parametrize("attachments", [[], None])
def test_no_attachments_leave_no_key(
    workspace: Workspace, agent: Api, published: list[Frame], attachments: Any
) -> None:
    assert notify(agent, workspace, {"message": "m", "attachments": attachments})[0] == 200
    assert "parts" not in ActivityLog.objects.get().response_body
    assert "attachments" not in shown(published)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "message is required"),
        ({"message": ""}, "message is required"),
        ({"message": None}, "message is required"),
        ({"message": ["x"]}, "message is required"),
        ([], "invalid request body"),
        ({"message": "m", "attachments": "file"}, "attachments must be a list"),
        ({"message": "m", "attachments": [FILE, {"uri": "u"}]}, "attachment[1]: uri and name are required"),
        (
            {"message": "m", "attachments": [{"uri": "", "name": "n"}]},
            "attachment[0]: uri and name are required",
        ),
        (
            {"message": "m", "attachments": [{"uri": 5, "name": "n"}]},
            "attachment[0]: uri and name are required",
        ),
        ({"message": "m", "attachments": [None]}, "attachment[0]: uri and name are required"),
        (
            {"message": "m", "attachments": [FILE, {"uri": "javascript:alert(1)", "name": "n"}]},
            "attachment[1]: uri scheme is not allowed",
        ),
        (
            {"message": "m", "attachments": [FILE] * 65},
            "attachment[64]: at most 64 attachments are allowed",
        ),
    ],
)
def test_a_wrong_message_is_refused_as_a_whole(
    workspace: Workspace, agent: Api, published: list[Frame], body: Any, text: str
) -> None:
    assert notify(agent, workspace, body) == (400, {"error": text})
    assert published == []
    assert not ActivityLog.objects.exists()


@pytest.mark.parametrize(
    "uri",
    [
        "JavaScript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "java\tscr\ript:x",
        "\x01javascript:x",
        "data:text/html,x",
        "DATA:,x",
        "vbscript:x",
        "blob:https://x/1",
    ],
)
def test_a_link_that_a_browser_would_run_is_refused(workspace: Workspace, agent: Api, uri: str) -> None:
    body = {"message": "m", "attachments": [{"uri": uri, "name": "n"}]}
    assert notify(agent, workspace, body) == (400, {"error": "attachment[0]: uri scheme is not allowed"})
    assert not ActivityLog.objects.exists()


@pytest.mark.parametrize(
    "uri", ["workspace:/a/../b", "platform-pending:w/f", "https://x/data:1", "s3://b/k", "javascript", "a b"]
)
def test_any_other_link_is_kept_as_it_is(
    workspace: Workspace, agent: Api, published: list[Frame], uri: str
) -> None:
    body = {"message": "m", "attachments": [{"uri": uri, "name": "n", "mimeType": "", "size": 0}]}
    assert notify(agent, workspace, body)[0] == 200
    assert shown(published)["attachments"] == [{"uri": uri, "name": "n"}]


@pytest.fixture
def failing_inserts() -> Any:
    """Call with n: the next n inserts into the feed fail in the database itself."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE attempts")

    def fail(times: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"""
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF nextval('attempts') <= {times} THEN RAISE EXCEPTION 'the disk is full'; END IF;
                    RETURN NEW;
                END $$
            """)
            cursor.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON activity_logs FOR EACH ROW EXECUTE FUNCTION refuse()"
            )

    yield fail
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER IF EXISTS refuse ON activity_logs")
        cursor.execute("DROP FUNCTION IF EXISTS refuse()")
        cursor.execute("DROP SEQUENCE attempts")


def lost() -> int:
    tally.flush()
    name = "molecule_agent_message_persist_failures_total"
    return sum(MetricCounter.objects.filter(name=name).values_list("value", flat=True))


def test_an_insert_that_fails_once_is_tried_again(
    workspace: Workspace, agent: Api, published: list[Frame], failing_inserts: Any
) -> None:
    failing_inserts(1)
    assert notify(agent, workspace, {"message": "m"}) == (200, {"status": "sent"})
    assert ActivityLog.objects.count() == len(published) == 1


def test_a_message_that_cannot_be_stored_is_not_shown_and_may_be_repeated(
    workspace: Workspace, agent: Api, published: list[Frame], failing_inserts: Any
) -> None:
    before = lost()
    failing_inserts(2)
    status, answer = notify(agent, workspace, {"message": "m"})
    assert (status, answer["code"]) == (503, "platform_unavailable")
    assert published == []
    assert lost() == before + 1

    assert notify(agent, workspace, {"message": "m"})[0] == 200
    assert ActivityLog.objects.count() == len(published) == 1


@pytest.mark.parametrize("text", ["😀" * 80, "日" * 300, "  spaced  ", "x" * 100_000])
def test_any_text_is_stored_as_it_is(workspace: Workspace, agent: Api, text: str) -> None:
    assert notify(agent, workspace, {"message": text})[0] == 200
    row = ActivityLog.objects.get()
    assert row.response_body["result"] == text
    assert row.summary == "Agent message: " + (text if len(text) <= 80 else text[:80] + "…")


def test_a_half_character_is_replaced(workspace: Workspace, agent: Api, published: list[Frame]) -> None:
    raw = rb'{"message":"cut \ud83d and \u0000"}'
    assert agent._client.generic("POST", f"/workspaces/{workspace.pk}/notify", raw).status_code == 200
    assert ActivityLog.objects.get().response_body == {"result": "cut \ufffd and \ufffd"}
    assert shown(published)["message"] == "cut \ufffd and \ufffd"


def test_a_removed_workspace_has_no_voice(workspace: Workspace, published: list[Frame]) -> None:
    Workspace.objects.filter(pk=workspace.pk).update(status=Status.REMOVED)
    assert notify(admin(), workspace, {"message": "m"}) == (404, {"error": "workspace not found"})
    assert published == []


def test_the_bubble_of_a_reload_is_the_row(workspace: Workspace, agent: Api) -> None:
    notify(agent, workspace, {"message": "m"})
    params = {"type": "a2a_receive", "source": "canvas", "limit": 10}
    (row,) = admin().get(f"/workspaces/{workspace.pk}/activity", **params).json()
    assert (row["method"], row["response_body"], row["source"]) == ("notify", {"result": "m"}, "canvas_user")
