"""The inbox poll: acknowledgement by reading, its budget of statements, its plan on a large table."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from activity.models import ActivityLog, InboxDeliveryState
from activity.services import acknowledge
from tests.activity.factories import logged, received
from tests.clients import Api, admin, agent_of
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory()


@pytest.fixture
def agent(workspace: Workspace) -> Api:
    return agent_of(workspace.pk)


def poll(caller: Api, workspace: Workspace, cursor: UUID, **params: Any) -> Any:
    params = {"type": "a2a_receive", "since_id": cursor, **params}
    answer = caller.get(f"/workspaces/{workspace.pk}/activity", **params)
    assert answer.status_code == 200, answer.content
    return answer.json()


def acked(workspace: Workspace) -> int | None:
    return InboxDeliveryState.objects.filter(pk=workspace.pk).values_list("last_acked_seq", flat=True).first()


def test_reading_on_acknowledges_what_was_read_before(workspace: Workspace, agent: Api) -> None:
    first, second = received(workspace), received(workspace)
    assert [row["id"] for row in poll(agent, workspace, first.pk)] == [str(second.pk)]
    assert acked(workspace) == first.seq
    assert poll(agent, workspace, second.pk) == []
    assert acked(workspace) == second.seq


def test_an_older_cursor_never_takes_an_acknowledgement_back(workspace: Workspace, agent: Api) -> None:
    first, second = received(workspace), received(workspace)
    poll(agent, workspace, second.pk)
    poll(agent, workspace, first.pk)
    assert acked(workspace) == second.seq


def test_an_operator_who_reads_along_acknowledges_nothing(workspace: Workspace) -> None:
    poll(admin(), workspace, received(workspace).pk)
    assert acked(workspace) is None


def test_only_the_inbox_is_acknowledged(workspace: Workspace, agent: Api) -> None:
    row = received(workspace)
    agent.get(f"/workspaces/{workspace.pk}/activity", since_id=row.pk)
    agent.get(f"/workspaces/{workspace.pk}/activity", since_id=row.pk, type="agent_log")
    agent.get(f"/workspaces/{workspace.pk}/activity", type="a2a_receive")
    assert acked(workspace) is None


def test_a_lost_cursor_acknowledges_nothing(workspace: Workspace, agent: Api) -> None:
    theirs = received(WorkspaceFactory())
    params = {"type": "a2a_receive", "since_id": theirs.pk}
    assert agent.get(f"/workspaces/{workspace.pk}/activity", **params).status_code == 410
    assert acked(workspace) is None


# --- POST …/activity/ack


def ack(caller: Api, workspace: Workspace, body: Any) -> tuple[int, Any]:
    answer = caller.post(f"/workspaces/{workspace.pk}/activity/ack", body)
    return answer.status_code, answer.json()


def test_an_acknowledgement_only_rises(workspace: Workspace, agent: Api) -> None:
    assert ack(agent, workspace, {"acked_seq": 5}) == (200, {"last_acked_seq": 5})
    assert ack(agent, workspace, {"acked_seq": 3}) == (200, {"last_acked_seq": 5})
    assert ack(agent, workspace, {"acked_seq": 5}) == (200, {"last_acked_seq": 5})
    assert ack(agent, workspace, {"acked_seq": 8}) == (200, {"last_acked_seq": 8})


@pytest.mark.parametrize(
    "body", [{}, {"acked_seq": -1}, {"acked_seq": "x"}, {"acked_seq": None}, [], {"acked_seq": 2**63}]
)
def test_what_is_no_number_is_refused(workspace: Workspace, agent: Api, body: Any) -> None:
    assert ack(agent, workspace, body) == (400, {"error": "acked_seq must be an integer >= 0"})
    assert acked(workspace) is None


@pytest.mark.django_db(transaction=True)
def test_simultaneous_acknowledgements_end_at_the_highest() -> None:
    workspace = WorkspaceFactory()
    at_once(*[lambda n=n: acknowledge(workspace_id=workspace.pk, seq=n) for n in range(1, 13)])
    assert acked(workspace) == 12


# --- What a poll costs


def test_a_poll_takes_two_statements_whether_or_not_there_is_anything(
    workspace: Workspace, agent: Api
) -> None:
    first, second = received(workspace), received(workspace)
    poll(agent, workspace, first.pk)  # stamps the token, which is done once a minute
    for cursor in (first.pk, second.pk):
        with CaptureQueriesContext(
            connection,
        ) as statements:
            poll(agent, workspace, cursor)
        assert len(statements) == 2, [one["sql"] for one in statements]


@pytest.mark.django_db(transaction=True)  # each write would have a time of its own
def test_an_idle_poll_writes_nothing() -> None:
    workspace = WorkspaceFactory()
    agent, row = agent_of(workspace.pk), received(workspace)
    poll(agent, workspace, row.pk)
    before = InboxDeliveryState.objects.get().updated_at
    poll(agent, workspace, row.pk)
    assert InboxDeliveryState.objects.get().updated_at == before


def test_a_first_poll_takes_two_statements(workspace: Workspace, agent: Api) -> None:
    path = f"/workspaces/{workspace.pk}/activity"
    agent.get(path)
    with CaptureQueriesContext(connection) as statements:
        agent.get(path, type="a2a_receive", since_secs=600)
    assert len(statements) == 2


@pytest.fixture(params=["much of the table is its own", "one feed among many"])
def large(request: Any, workspace: Workspace) -> Workspace:
    """20 000 rows, spread over one or over forty feeds."""
    feeds = [workspace.pk]
    if request.param == "one feed among many":
        feeds += [WorkspaceFactory().pk for _ in range(39)]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO activity_logs (id, workspace_id, activity_type, status, source_id, created_at)
            SELECT gen_random_uuid(), (%s::uuid[])[1 + n %% %s],
                   (ARRAY['a2a_receive', 'agent_log', 'task_update', 'delegation'])[1 + (n / 40) %% 4], 'ok',
                   CASE WHEN n %% 3 = 0 THEN gen_random_uuid() END, now() - (20000 - n) * interval '1 second'
            FROM generate_series(1, 20000) n
            """,
            [feeds, len(feeds)],
        )
        cursor.execute("ANALYZE activity_logs, workspaces")
    return workspace


def plan(caller: Api, workspace: Workspace, **params: Any) -> str:
    with CaptureQueriesContext(connection) as statements:
        answer = caller.get(f"/workspaces/{workspace.pk}/activity", **params)
    assert answer.status_code == 200
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN " + statements[-1]["sql"].replace("%", "%%"))
        return "\n".join(row[0] for row in cursor.fetchall())


def test_no_read_of_the_feed_scans_the_table(large: Workspace) -> None:
    inbox = ActivityLog.objects.filter(workspace=large, activity_type="a2a_receive").order_by("seq")
    newest, peer = inbox.last(), inbox.exclude(source_id=None).first()
    assert newest is not None
    assert peer is not None
    reads: list[dict[str, Any]] = [
        {"type": "a2a_receive", "since_id": newest.pk},
        {"type": "a2a_receive", "since_secs": 600},
        {"type": "a2a_receive", "source": "canvas", "limit": 20},
        {"type": "a2a_receive", "source": "canvas", "limit": 20, "before_ts": "2026-01-01T00:00:00Z"},
        {"type": "delegation", "source": "agent", "limit": 500},
        {"type": "never written", "limit": 500},
        {"limit": 50},
        {"peer_id": peer.source_id},
    ]
    for params in reads:
        explained = plan(admin(), large, **params)
        assert "Seq Scan on activity_logs" not in explained, (params, explained)
        assert "activity_logs_" in explained, (params, explained)


def test_notifications_and_uploads_are_in_the_inbox_too(workspace: Workspace, agent: Api) -> None:
    first = received(workspace)
    logged(
        workspace, activity_type="a2a_receive", method="chat_upload_receive", request_body={"file_id": "f"}
    )
    logged(workspace, activity_type="task_update")
    assert [row["method"] for row in poll(agent, workspace, first.pk)] == ["chat_upload_receive"]
