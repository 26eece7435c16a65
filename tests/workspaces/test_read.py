"""Lists, single reads and state."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection

from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import ADMIN_TOKEN
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import CanvasLayout, Status, Workspace

pytestmark = pytest.mark.django_db

# fmt: off
LISTED = {
    "id", "name", "status", "runtime", "url", "role", "workspace_dir", "parent_id", "tier", "active_tasks",
    "max_concurrent_tasks", "uptime_seconds", "monthly_spend", "last_error_rate", "x", "y", "collapsed",
    "last_sample_error", "current_task", "agent_card", "budget_limit", "last_heartbeat_at", "delivery_mode",
    "budget_used",
}
# fmt: on
HIDDEN = {
    "budget_limit",
    "budget_used",
    "monthly_spend",
    "current_task",
    "last_sample_error",
    "workspace_dir",
}


def test_the_list_is_a_bare_array_in_order_of_creation_without_removed_rows():
    assert admin().get("/workspaces").content == b"[]"
    first, gone, second = WorkspaceFactory(), WorkspaceFactory(status=Status.REMOVED), WorkspaceFactory()
    ids = [row["id"] for row in admin().get("/workspaces").json()]
    assert ids == [str(first.pk), str(second.pk)]
    assert str(gone.pk) not in ids


def test_a_listed_row_has_exactly_the_keys_clients_read():
    WorkspaceFactory(url=None)
    (row,) = admin().get("/workspaces").json()
    assert set(row) == LISTED
    assert (row["x"], row["y"], row["collapsed"]) == (0, 0, False)
    assert (row["url"], row["current_task"], row["last_sample_error"]) == ("", "", "")
    assert (row["agent_card"], row["role"], row["parent_id"], row["budget_limit"]) == (None, None, None, None)


def test_a_list_of_thirty_costs_what_a_list_of_three_costs(django_assert_num_queries):
    for row in WorkspaceFactory.create_batch(30):
        CanvasLayout.objects.create(workspace=row, x=1, y=2)
    with django_assert_num_queries(1):
        assert len(admin().get("/workspaces").json()) == 30


def test_json_is_compact_and_times_keep_their_microseconds():
    WorkspaceFactory()
    body = admin().get("/workspaces").content.decode()
    assert '"status":"online"' in body
    assert ": " not in body


def test_anybody_with_the_id_reads_the_row_without_what_is_the_operators():
    row = WorkspaceFactory(platform_inbound_secret="v0:c2VjcmV0", current_task="t")
    body = anonymous().get(f"/workspaces/{row.pk}").json()
    assert set(body) == (LISTED - HIDDEN) | {"last_outbound_at"}


def test_a_removed_workspace_is_gone_unless_asked_for():
    row = WorkspaceFactory(status=Status.REMOVED)
    answer = anonymous().get(f"/workspaces/{row.pk}")
    assert answer.status_code == 410
    assert set(answer.json()) == {"error", "id", "removed_at", "hint"}
    shown = anonymous().get(f"/workspaces/{row.pk}", include_removed="true")
    assert (shown.status_code, shown.json()["status"]) == (200, "removed")


@pytest.mark.parametrize(
    "path", ["/workspaces/{}", "/workspaces/{}/state", "/workspaces/{}/activity", "/workspaces/{}/restart"]
)
def test_an_id_that_is_none_is_refused_before_anything_else(path, django_assert_num_queries):
    with django_assert_num_queries(0):
        api = admin()
        for bad in ("global", "not-a-uuid", "0" * 32):
            answer = api.post(path.format(bad)) if path.endswith("restart") else api.get(path.format(bad))
            assert (answer.status_code, answer.json()) == (400, {"error": "invalid workspace ID"})


def test_an_id_may_be_written_in_capitals_and_an_unknown_one_is_not_found():
    row = WorkspaceFactory()
    assert anonymous().get(f"/workspaces/{str(row.pk).upper()}").json()["id"] == str(row.pk)
    answer = anonymous().get(f"/workspaces/{uuid4()}")
    assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})


def test_state_tells_of_deletion_before_it_asks_for_a_credential():
    unknown = uuid4()
    assert anonymous().get(f"/workspaces/{unknown}/state").json() == {
        "workspace_id": str(unknown),
        "deleted": True,
    }
    gone = WorkspaceFactory(status=Status.REMOVED)
    answer = anonymous().get(f"/workspaces/{gone.pk}/state")
    assert answer.status_code == 404
    assert answer.json() == {"workspace_id": str(gone.pk), "status": "removed", "deleted": True}


def test_state_is_the_workspaces_own():
    row, other = WorkspaceFactory(status=Status.PAUSED), WorkspaceFactory()
    path = f"/workspaces/{row.pk}/state"
    assert agent_of(row.pk).get(path).json() == {
        "workspace_id": str(row.pk), "status": "paused", "paused": True, "deleted": False,
    }  # fmt: skip
    assert anonymous().get(path).json() == {"error": "missing workspace auth token"}
    refused = agent_of(other.pk).get(path)
    assert (refused.status_code, refused.json()) == (401, {"error": "invalid workspace auth token"})


def test_removed_routes_stay_removed():
    row = WorkspaceFactory()
    for verb in ("expand", "collapse"):
        assert admin().post(f"/workspaces/{row.pk}/{verb}").status_code == 404
    row.refresh_from_db()
    assert row.status == Status.ONLINE


def test_a_canvas_that_has_the_list_is_not_sent_it_again():
    row = WorkspaceFactory()
    first = admin().get("/workspaces")
    etag = first.headers["ETag"]
    assert etag.startswith('W/"')
    again = Api(ADMIN_TOKEN, HTTP_IF_NONE_MATCH=f'"other", {etag}').get("/workspaces")
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
    Workspace.objects.filter(pk=row.pk).update(current_task="reading")
    changed = Api(ADMIN_TOKEN, HTTP_IF_NONE_MATCH=etag).get("/workspaces")
    assert (changed.status_code, changed.json()[0]["current_task"]) == (200, "reading")
    assert Api(HTTP_IF_NONE_MATCH=etag).get("/workspaces").status_code == 401


@pytest.mark.django_db(transaction=True)
def test_a_list_that_cannot_be_read_whole_is_an_error():
    WorkspaceFactory()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE canvas_layouts RENAME TO elsewhere")
    try:
        answer = admin().get("/workspaces")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO canvas_layouts")
    assert (answer.status_code, answer.json()) == (500, {"error": "query failed"})
