"""The schedules of a workspace, as the canvas, an agent and an operator see them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from activity.services import log_activity
from schedules.models import Schedule
from tests.clients import Api, admin, agent_of
from tests.conftest import at_once
from tests.schedules.factories import PAST, ScheduleFactory
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db

DAILY = {"cron_expr": "0 9 * * *", "prompt": "plan the day"}
KEYS = [
    "id", "workspace_id", "name", "cron_expr", "timezone", "prompt", "enabled", "last_run_at", "next_run_at",
    "run_count", "last_status", "last_error", "source", "created_at", "updated_at",
]  # fmt: skip


def path(row: Workspace, tail: str = "") -> str:
    return f"/workspaces/{row.pk}/schedules{tail}"


def one(schedule: Schedule, tail: str = "") -> str:
    return path(schedule.workspace, f"/{schedule.pk}{tail}")


@pytest.fixture
def row() -> Workspace:
    return WorkspaceFactory()


def test_a_schedule_is_made_and_listed(row):
    api = agent_of(row.pk)
    answer = api.post(path(row), {**DAILY, "name": "morning", "timezone": "Europe/Berlin"})
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {"id", "status", "next_run_at"}
    assert body["status"] == "created"
    (listed,) = api.get(path(row)).json()
    assert list(listed) == KEYS
    assert listed["id"] == body["id"]
    assert (listed["enabled"], listed["source"], listed["last_status"]) == (True, "runtime", "")
    assert listed["next_run_at"] == body["next_run_at"]
    assert listed["last_run_at"] is None
    assert Schedule.objects.get().next_run_at > timezone.now()


def test_the_list_is_an_array_in_the_order_of_their_making_and_costs_the_same_for_many(row):
    assert admin().get(path(row)).json() == []
    ids = [str(ScheduleFactory(workspace=row).pk) for _ in range(3)]
    with CaptureQueriesContext(connection) as few:
        assert [one["id"] for one in admin().get(path(row)).json()] == ids
    for _ in range(27):
        ScheduleFactory(workspace=row)
    with CaptureQueriesContext(connection) as many:
        admin().get(path(row))
    assert len(many) == len(few)


def test_what_is_missing_gets_its_default(row):
    admin().post(path(row), {"cron_expr": "* * * * *", "prompt": "a\r\nb", "timezone": "", "name": " "})
    made = Schedule.objects.get()
    assert (made.prompt, made.timezone, made.name, made.enabled) == ("a\nb", "UTC", "", True)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prompt": None}, "cron_expr and prompt are required"),
        ({"prompt": " \r "}, "cron_expr and prompt are required"),
        ({"cron_expr": None}, "cron_expr and prompt are required"),
        ({"cron_expr": ""}, "cron_expr and prompt are required"),
        ({"timezone": "Mars/Olympus"}, "invalid timezone: Mars/Olympus"),
        ({"timezone": "Mars/Olympus", "cron_expr": "x"}, "invalid timezone: Mars/Olympus"),
        ({"cron_expr": "0 0 30 2 *"}, "invalid cron expression"),
        ({"cron_expr": "@daily"}, "invalid cron expression"),
        ({"cron_expr": "0 0 * * * *"}, "invalid cron expression"),
        ({"prompt": "x" * 65_537}, "prompt must be at most 65536 bytes"),
        ({"name": "x" * 256}, "name must be at most 255 characters"),
        ({"enabled": "yes"}, "must be true or false"),
        ({"name": 5}, "must be text"),
    ],
)
def test_what_is_refused(row, changes: dict[str, Any], error: str):
    body = {key: value for key, value in {**DAILY, **changes}.items() if value is not None}
    answer = admin().post(path(row), body)
    assert (answer.status_code, error in answer.json()["error"]) == (400, True), answer.content
    assert not Schedule.objects.exists()


def test_a_name_is_taken_once_and_none_is_no_name(row):
    api = admin()
    assert api.post(path(row), {**DAILY, "name": "a"}).status_code == 201
    answer = api.post(path(row), {**DAILY, "name": "a"})
    assert (answer.status_code, answer.json()) == (409, {"error": "schedule name already exists"})
    assert api.post(path(WorkspaceFactory()), {**DAILY, "name": "a"}).status_code == 201
    assert api.post(path(row), DAILY).status_code == 201
    other = api.post(path(row), DAILY)
    assert other.status_code == 201
    renamed = api.patch(path(row, f"/{other.json()['id']}"), {"name": "a"})
    assert (renamed.status_code, renamed.json()["error"]) == (409, "schedule name already exists")


@pytest.mark.django_db(transaction=True)
def test_of_two_that_want_a_name_at_once_one_gets_it():
    row = WorkspaceFactory()
    make = lambda: admin().post(path(row), {**DAILY, "name": "a"}).status_code  # noqa: E731
    assert sorted(at_once(make, make, make)) == [201, 409, 409]


def test_a_change_touches_what_it_names(row):
    made = ScheduleFactory(workspace=row, name="old")
    assert admin().patch(one(made), {"name": "new", "prompt": "x\r"}).json() == {"status": "updated"}
    made.refresh_from_db()
    assert (made.name, made.prompt, made.cron_expr) == ("new", "x", "*/5 * * * *")
    assert made.next_run_at == PAST  # a run that is due stays due


@pytest.mark.parametrize(
    "change", [{"cron_expr": "0 * * * *"}, {"timezone": "Asia/Kolkata"}, {"enabled": True}], ids=str
)
def test_new_times_and_switching_on_count_from_now(row, change: dict[str, Any]):
    made = ScheduleFactory(
        workspace=row, enabled=change.get("enabled") is None, consecutive_sdk_errors=3, cron_expr="0 0 * * *"
    )
    assert admin().patch(one(made), change).status_code == 200
    made.refresh_from_db()
    assert made.next_run_at > timezone.now()
    assert made.enabled
    assert made.consecutive_sdk_errors == (0 if "enabled" in change else 3)


def test_the_same_values_again_change_nothing(row):
    made = ScheduleFactory(workspace=row)
    same = {"cron_expr": made.cron_expr, "timezone": "UTC", "enabled": True, "prompt": made.prompt}
    assert admin().patch(one(made), same).status_code == 200
    after = Schedule.objects.get()
    assert (after.next_run_at, after.updated_at) == (PAST, made.updated_at)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cron_expr": "60 * * * *"}, "invalid cron expression"),
        ({"timezone": "x"}, "invalid timezone: x"),
        ({"prompt": ""}, "cron_expr and prompt are required"),
    ],
)
def test_a_bad_change_changes_nothing(row, change: dict[str, Any], error: str):
    made = ScheduleFactory(workspace=row)
    answer = admin().patch(one(made), {"name": "new", **change})
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert Schedule.objects.get().name == made.name


def test_an_end(row):
    made = ScheduleFactory(workspace=row)
    assert admin().delete(one(made)).json() == {"status": "deleted"}
    assert admin().delete(one(made)).status_code == 404
    assert not Schedule.objects.exists()


def test_a_run_by_hand_gives_the_prompt_and_sends_nothing(row):
    made = ScheduleFactory(workspace=row)
    answer = with_an_empty_body(one(made, "/run"))
    assert answer.json() == {"status": "fired", "workspace_id": str(row.pk), "prompt": "report"}
    made.refresh_from_db()
    assert (made.run_count, made.last_run_at, made.next_run_at) == (0, None, PAST)


def with_an_empty_body(url: str) -> Any:
    """The canvas says JSON and sends nothing."""
    return admin()._client.generic("POST", url, b"", content_type="application/json")


def test_the_history_is_the_last_twenty_runs_of_this_schedule(row):
    made, other = ScheduleFactory(workspace=row), ScheduleFactory(workspace=row)
    for number in range(22):
        for schedule in (made, other):
            log_activity(
                workspace_id=row.pk,
                activity_type="cron_run",
                announce=False,
                request_body={"schedule_id": str(schedule.pk), "number": number},
                duration_ms=number,
                status="ok",
            )
    runs = admin().get(one(made, "/history")).json()
    assert [run["request"]["number"] for run in runs] == list(range(21, 1, -1))
    assert set(runs[0]) == {"timestamp", "duration_ms", "status", "error_detail", "request"}


def test_the_history_has_an_index():
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        from schedules.selectors import KT, RUN_TYPE, ActivityLog

        rows = ActivityLog.objects.alias(of=KT("request_body__schedule_id"))
        plan = rows.filter(workspace_id=uuid4(), activity_type=RUN_TYPE, of="x").newest_first()[:20].explain()
    assert "activity_logs_schedule" in plan
    assert "Sort" not in plan


@pytest.mark.parametrize(
    ("method", "tail"), [("patch", ""), ("delete", ""), ("post", "/run"), ("get", "/history")]
)
def test_an_id_alone_names_nothing(row, method: str, tail: str):
    foreign = ScheduleFactory()
    for name in (foreign.pk, uuid4(), "no-id"):
        url = path(row, f"/{name}{tail}")
        answer = getattr(admin(), method)(url, *([{"name": "x"}] if method == "patch" else []))
        assert (answer.status_code, answer.json()["error"]) == (404, "schedule not found")
    assert Schedule.objects.filter(pk=foreign.pk).exists()


def test_an_unknown_or_removed_workspace_has_none():
    for row_id in (uuid4(), WorkspaceFactory(status=Status.REMOVED).pk):
        assert admin().post(f"/workspaces/{row_id}/schedules", DAILY).status_code == 404
    assert admin().get("/workspaces/nothing/schedules").status_code == 400


# --- Health


def test_a_peer_sees_how_it_goes_and_neither_when_nor_what():
    parent = WorkspaceFactory()
    row, sibling = WorkspaceFactory(parent=parent), WorkspaceFactory(parent=parent)
    made = ScheduleFactory(workspace=row, last_status="ok")
    (shown,) = agent_of(sibling.pk).get(path(row, "/health")).json()
    assert list(shown) == [
        "id", "name", "enabled", "last_run_at", "next_run_at", "run_count", "last_status", "last_error",
    ]  # fmt: skip
    assert shown["id"] == str(made.pk)
    assert agent_of(sibling.pk).get(path(row)).status_code == 401


def test_a_claim_in_a_header_is_no_identity(row):
    ScheduleFactory(workspace=row)
    for claimed in (str(row.pk), "system:x"):
        assert Api(HTTP_X_WORKSPACE_ID=claimed).get(path(row, "/health")).status_code in {401, 403}
    stranger = WorkspaceFactory(parent=WorkspaceFactory())
    assert agent_of(stranger.pk).get(path(row, "/health")).status_code == 403


def test_operators_see_what_is_late():
    now = timezone.now()
    a, b = WorkspaceFactory(name="a"), WorkspaceFactory(name="b")
    ScheduleFactory(workspace=b, name="fresh", last_run_at=now, next_run_at=now)
    ScheduleFactory(workspace=a, name="z late", last_run_at=now - timedelta(seconds=700))
    ScheduleFactory(workspace=a, name="off", last_run_at=PAST, enabled=False)
    ScheduleFactory(workspace=a, name="new")
    ScheduleFactory(workspace=b, name="broken", last_run_at=PAST, cron_expr="nonsense")
    ScheduleFactory(workspace=WorkspaceFactory(status=Status.REMOVED))
    with CaptureQueriesContext(connection) as queries:
        shown = admin().get("/admin/schedules/health").json()
    assert [(one["workspace_name"], one["schedule_name"], one["status"]) for one in shown] == [
        ("a", "new", "never_run"),
        ("a", "off", "ok"),
        ("a", "z late", "stale"),
        ("b", "broken", "ok"),
        ("b", "fresh", "ok"),
    ]
    assert [one["stale_threshold_seconds"] for one in shown] == [600, 600, 600, 0, 600]
    assert list(shown[0]) == [
        "workspace_id", "workspace_name", "schedule_id", "schedule_name", "cron_expr", "last_run_at",
        "expected_next_run", "status", "stale_threshold_seconds",
    ]  # fmt: skip
    assert sum("workspace_schedules" in one["sql"] for one in queries) == 1
    assert agent_of(a.pk).get("/admin/schedules/health").status_code == 401
