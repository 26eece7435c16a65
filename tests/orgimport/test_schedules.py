"""The schedules a template declares, and those that were made at work."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from schedules.models import Schedule
from schedules.services import tick
from tests.clients import admin
from tests.orgimport.conftest import Put, post
from tests.outages import statements_fail
from workspaces.models import Workspace
from workspaces.services import remove_workspace

pytestmark = pytest.mark.django_db(transaction=True)

DAILY = {"name": "daily", "cron_expr": "0 9 * * *", "prompt": "plan"}


def org(*schedules: Any, name: str = "Lead", **node: Any) -> dict[str, Any]:
    return {"name": "Firm", "workspaces": [{"name": name, "external": True, "schedules": schedules, **node}]}


def entry(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 201, answer.content
    return dict(answer.json()["workspaces"][0])


def lead() -> Workspace:
    return Workspace.objects.live().get(name="Lead")


def rows() -> dict[str, Schedule]:
    return {one.name: one for one in Schedule.objects.filter(workspace=lead())}


def at_work(name: str = "own", **fields: Any) -> Schedule:
    """Somebody makes a schedule through the API."""
    body = {"name": name, "cron_expr": "0 7 * * *", "prompt": "mine", **fields}
    made = admin().post(f"/workspaces/{lead().pk}/schedules", body)
    return Schedule.objects.get(pk=made.json()["id"])


def test_declared_schedules_are_there_when_the_workspace_is():
    body = entry(post(template=org(DAILY, {"cron_expr": "* * * * *", "prompt": " a\r\n ", "enabled": False})))
    assert body["schedules"] == ["daily", "schedule-2"]
    assert "schedules_skipped" not in body
    daily, second = rows()["daily"], rows()["schedule-2"]
    assert (daily.source, daily.timezone, daily.enabled) == ("template", "UTC", True)
    assert daily.next_run_at > timezone.now()
    assert (second.enabled, second.prompt) == (False, "a")


def test_a_second_import_touches_none():
    post(template=org(DAILY))
    before = list(Schedule.objects.values())
    body = entry(post(template=org({**DAILY, "prompt": "other"}, {**DAILY, "name": "new"})))
    assert "schedules" not in body
    assert list(Schedule.objects.values()) == before


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"cron_expr": "0 0 30 2 *"}, "invalid cron expression"),
        ({"cron_expr": "@daily"}, "invalid cron expression"),
        ({"cron_expr": None}, "invalid cron expression"),
        ({"cron_expr": 5}, "cron_expr must be a text"),
        ({"timezone": "Mars/Olympus"}, "invalid timezone: Mars/Olympus"),
        ({"prompt": "  "}, "empty prompt"),
        ({"prompt": ["a"]}, "prompt must be a text"),
        ({"prompt": "x" * 16_385}, "the prompt is longer than 16384 bytes"),
        ({"enabled": "yes"}, "enabled must be true or false"),
    ],
)
def test_what_cannot_be_meant_is_reported_and_the_rest_is_there(given: dict[str, Any], reason: str):
    bad = {key: value for key, value in {**DAILY, "name": "bad", **given}.items() if value is not None}
    body = entry(post(template=org(bad, DAILY)))
    assert body["schedules_skipped"] == [{"workspace": "Lead", "name": "bad", "reason": reason}]
    assert body["schedules"] == ["daily"]
    assert set(rows()) == {"daily"}


def test_a_name_twice_and_too_many_are_reported():
    many = [{**DAILY, "name": f"n{number}"} for number in range(101)]
    body = entry(post(template=org(*many)))
    assert [one["reason"] for one in body["schedules_skipped"]] == ["more than 100 schedules"]
    assert Schedule.objects.count() == 100
    body = entry(post(template=org(DAILY, DAILY, name="Other")))
    expected = "another schedule of this workspace has the same name"
    assert [one["reason"] for one in body["schedules_skipped"]] == [expected]


def test_keys_nobody_knows_are_returned():
    body = post(template=org({**DAILY, "cron": "x"})).json()
    assert {"path": "Lead", "key": "schedules[0].cron"} in body["warnings"]


def test_a_prompt_may_lie_in_a_file(put: Put):
    put(
        "filed/org.yaml",
        """
name: Filed
workspaces:
  - name: Lead
    external: true
    files_dir: lead
    schedules:
      - {name: inside, cron_expr: "* * * * *", prompt_file: a.md}
      - {name: outside, cron_expr: "* * * * *", prompt_file: ../../small/org.yaml}
      - {name: absent, cron_expr: "* * * * *", prompt_file: b.md}
      - {name: inline, cron_expr: "* * * * *", prompt: said, prompt_file: b.md}
""",
    )
    put("filed/lead/a.md", "look\r\naround\n")
    body = entry(post(dir="filed"))
    assert body["schedules"] == ["inside", "inline"]
    assert {one["name"]: one["reason"] for one in body["schedules_skipped"]} == {
        "outside": "prompt_file cannot be read",
        "absent": "prompt_file cannot be read",
    }
    assert {name: row.prompt for name, row in rows().items()} == {"inside": "look\naround", "inline": "said"}


def test_a_database_that_refuses_a_schedule_takes_the_level_back():
    with statements_fail('INSERT INTO "workspace_schedules"'):
        answer = post(template=org(DAILY))
    assert (answer.status_code, answer.json()["count"]) == (207, 0)
    assert not Workspace.objects.exists()


# --- Reconcile


def reconcile(*schedules: Any) -> dict[str, Any]:
    return entry(post(template=org(*schedules), mode="reconcile"))


def test_a_template_refreshes_its_own():
    post(template=org(DAILY, {**DAILY, "name": "kept"}))
    before = rows()
    body = reconcile(
        {**DAILY, "prompt": "new"}, {**DAILY, "name": "added"}, {**DAILY, "name": "bad", "cron_expr": "x"}
    )
    assert body["refreshed"]
    assert body["schedules"] == ["daily", "added"]
    assert [one["name"] for one in body["schedules_skipped"]] == ["bad"]
    after = rows()
    assert set(after) == {"daily", "kept", "added"}
    assert (after["daily"].prompt, after["daily"].pk) == ("new", before["daily"].pk)
    assert after["daily"].next_run_at == before["daily"].next_run_at  # the times are the same
    assert after["kept"].updated_at == before["kept"].updated_at
    again = reconcile({**DAILY, "prompt": "new"}, {**DAILY, "name": "added"})
    assert "schedules" not in again
    assert reconcile({**DAILY, "cron_expr": "0 10 * * *"})["schedules"] == ["daily"]
    assert rows()["daily"].next_run_at != before["daily"].next_run_at


def test_what_was_made_at_work_is_not_the_templates():
    post(template=org())
    own = at_work("daily")
    body = reconcile(DAILY)
    reason = "a schedule of this name was not made by a template and stays as it is"
    assert body["schedules_skipped"] == [{"workspace": "Lead", "name": "daily", "reason": reason}]
    assert Schedule.objects.values().get() == Schedule.objects.filter(pk=own.pk).values().get()
    assert Schedule.objects.get().prompt == "mine"


def test_a_refresh_that_fails_is_reported_and_the_import_stands():
    post(template=org())
    with statements_fail('INSERT INTO "workspace_schedules"'):
        body = reconcile(DAILY)
    reason = "the database refused it or cannot be asked"
    assert body["schedules_skipped"] == [{"workspace": "Lead", "name": "daily", "reason": reason}]
    assert reconcile(DAILY)["schedules"] == ["daily"]


# --- A workspace that comes back


def test_a_workspace_that_comes_back_has_what_was_made_at_work_in_its_predecessor():
    post(template=org(DAILY, {**DAILY, "name": "own"}))
    Schedule.objects.filter(name="own").delete()
    own, off = at_work("own"), at_work("off", enabled=False)
    remove_workspace(workspace_id=lead().pk, confirmed=True)
    assert not Schedule.objects.filter(enabled=True).exists()
    body = entry(post(template=org(DAILY, {**DAILY, "name": "own"})))
    assert body["schedules"] == ["daily"]
    assert [one["name"] for one in body["schedules_skipped"]] == ["own"]
    now = rows()
    assert {name: (row.enabled, row.source) for name, row in now.items()} == {
        "daily": (True, "template"),
        "own": (True, "runtime"),
        "off": (False, "runtime"),
    }
    assert (now["own"].pk, now["own"].prompt, now["off"].pk) == (own.pk, "mine", off.pk)
    assert now["own"].next_run_at > timezone.now()
    assert not any(tick(timezone.now()).values())


def test_only_the_newest_predecessor_in_the_same_place_is_inherited_from():
    post(template=org())
    at_work("first")
    remove_workspace(workspace_id=lead().pk, confirmed=True)
    admin().post("/workspaces", {"name": "Lead", "runtime": "external"})
    at_work("second")
    remove_workspace(workspace_id=lead().pk, confirmed=True)
    post(template=org(name="Other"))  # no predecessor
    other = {"name": "Firm", "workspaces": [{"name": "Other", "external": True, "children": [
        {"name": "Lead", "external": True}]}]}  # fmt: skip
    post(template=other)  # the same name in another place
    assert rows() == {}
    remove_workspace(workspace_id=lead().pk, confirmed=True)
    post(template=org())
    assert set(rows()) == {"second"}


def test_a_legacy_that_cannot_be_taken_over_is_only_logged():
    post(template=org())
    at_work("own")
    remove_workspace(workspace_id=lead().pk, confirmed=True)
    with statements_fail("WITH predecessor"):
        body = entry(post(template=org(DAILY)))
    assert body["schedules"] == ["daily"]
    assert set(rows()) == {"daily"}


def test_an_inline_template_has_no_file_of_a_prompt():
    answer = post(template=org({"name": "a", "cron_expr": "0 9 * * *", "prompt_file": "a.md"}))
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["field"] == "schedules[0].prompt_file"
