"""The operators' pages about delegations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from config.jobs import Job
from console.models import OperatorAction
from delegations.models import Delegation, Delivery, Status
from provisioning import dispatch
from tests.console.conftest import few_queries, login, text_of
from tests.delegations.factories import delegated, fresh, inbox, pair
from tests.doorbell import Doorbell

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)

LIST = "/console/delegations/delegation/"


@pytest.fixture(autouse=True)
def no_compute() -> Iterator[None]:
    dispatch.wire(None)
    yield
    dispatch.choose_again()


@pytest.fixture
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> Doorbell:
    from config import jobs

    bell = Doorbell()
    monkeypatch.setattr(jobs, "_send", bell.ring)
    return bell


def page(row: Delegation) -> str:
    return f"{LIST}{row.pk}/change/"


def act(row: Delegation, verb: str) -> str:
    return f"{LIST}{row.pk}/act/{verb}/"


def confirm(browser: Client, path: str, reason: str = "nobody answers") -> str:
    shown = re.search(r'name="seen" value="(\w*)"', text_of(browser.get(path)))
    assert shown, "the page offers nothing to confirm"
    return text_of(browser.post(path, {"seen": shown[1], "reason": reason}, follow=True))


def tasks(html: str) -> list[str]:
    return re.findall(r"/change/[^>]*>\s*(task [\w ]+?)\s*</a>", html)


def stuck(**fields: Any) -> Delegation:
    now = timezone.now()
    plain = {"status": Status.STUCK, "dispatched_at": now, "delivery": Delivery.DIRECT}
    return delegated(**(plain | fields))


def test_stuck_ones_come_first_then_late_ones():
    caller, callee = pair(name="Worker")
    past, soon = timezone.now() - timedelta(hours=2), timezone.now() + timedelta(minutes=5)
    of = {"caller": caller, "callee": callee}
    delegated(**of, text="task running", deadline=soon)
    delegated(**of, text="task late", deadline=past)
    stuck(**of, text="task stuck")
    delegated(**of, text="task failed", status=Status.FAILED, finished_at=past)
    delegated(**of, text="task done", status=Status.COMPLETED, finished_at=past)
    browser = login("viewer")
    html = text_of(browser.get(LIST))
    assert tasks(html) == ["task stuck", "task late", "task running"]
    assert "Worker" in html
    assert "2h over" in html
    for state, found in {
        "stuck": "stuck",
        "overdue": "late",
        "failed": "failed",
        "completed": "done",
    }.items():
        assert tasks(text_of(browser.get(LIST, {"state": state}))) == [f"task {found}"]


def test_one_is_found_by_its_id_or_its_workspaces_and_nothing_else_is_read():
    first, second = delegated(text="task one"), delegated(text="task two")
    browser = login("viewer")
    for term in (first.pk, str(first.caller_id), str(first.callee_id)):
        assert tasks(text_of(browser.get(LIST, {"q": term}))) == ["task one"]
    assert tasks(text_of(browser.get(LIST, {"q": "task"}))) == []
    assert len(tasks(text_of(browser.get(LIST, {"q": " "})))) == 2
    assert second.pk in text_of(browser.get(LIST))


def test_the_list_of_many_costs_what_the_list_of_few_does():
    caller, callee = pair()
    for number in range(60):
        delegated(caller, callee, text=f"task {number}", key=str(number))
    browser = login("operator")
    for query in ({}, {"state": "overdue"}, {"state": "completed"}, {"p": "2"}, {"q": str(caller.pk)}):
        with few_queries():
            text_of(browser.get(LIST, query))


def test_ended_ones_are_listed_by_an_index():
    caller, callee = pair()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO delegations (delegation_id, caller_id, callee_id, task_preview, status, deadline,"
            " result_is_cut, retry_count, source, finished_at, created_at)"
            " SELECT 'd' || n, %s, %s, 'task', 'completed', now(), false, 0, 'api', now(),"
            " now() - n * interval '1 s' FROM generate_series(1, 30000) n",
            [caller.pk, callee.pk],
        )
        cursor.execute("ANALYZE delegations")
    rows = Delegation.objects.filter(status=Status.COMPLETED).order_by("-created_at", "-pk")[:50]
    assert "delegations_by_status" in rows.explain()
    browser = login("viewer")
    with few_queries():
        html = text_of(browser.get(LIST, {"state": "completed"}))
    assert "30000" in html.replace(",", "").replace("\xa0", "")


@pytest.mark.parametrize("verb", ["resolve", "retry", "nudge"])
@pytest.mark.parametrize("role", [None, "viewer"])
def test_who_may_not_act_does_not(verb: str, role: str | None):
    row = stuck()
    browser = login(role)
    assert browser.get(act(row, verb)).status_code == 403
    assert browser.post(act(row, verb), {"reason": "x", "seen": ""}).status_code == 403
    assert fresh(row).status == Status.STUCK
    assert not OperatorAction.objects.exists()


def test_a_viewer_is_offered_nothing():
    row = stuck()
    assert "/act/" not in text_of(login("viewer").get(page(row)))
    assert "/act/resolve/" in text_of(login("operator").get(page(row)))


@committed
def test_a_stuck_one_is_found_and_resolved(doorbell: Doorbell):
    row = stuck(text="task stuck")
    browser = login("operator")
    assert tasks(text_of(browser.get(LIST, {"state": "stuck"}))) == ["task stuck"]
    html = confirm(browser, act(row, "resolve"), "the agent is gone")
    assert "its caller is told" in html
    assert (fresh(row).status, fresh(row).error_detail) == (
        "failed",
        "resolved by operator: the agent is gone",
    )
    assert inbox(row.caller_id).count() == 1
    record = OperatorAction.objects.get()
    assert (record.verb, record.object_id, record.reason) == (
        "delegation.resolve",
        row.pk,
        "the agent is gone",
    )
    assert record.outcome == "done"
    assert "It has ended" in text_of(browser.get(act(row, "resolve")))


@committed
def test_a_stuck_one_is_sent_again(doorbell: Doorbell):
    row = stuck()
    confirm(login("operator"), act(row, "retry"))
    assert (fresh(row).status, fresh(row).delivery, fresh(row).retry_count) == ("dispatched", "queue", 1)


@committed
def test_a_nudge_rings_for_what_waits_and_changes_nothing(doorbell: Doorbell):
    queued, waiting = delegated(), stuck(delivery=Delivery.QUEUE)
    doorbell.rung.clear()
    browser = login("operator")
    for row in (queued, waiting):
        before = fresh(row)
        confirm(browser, act(row, "nudge"))
        assert fresh(row).updated_at == before.updated_at
    assert doorbell.rung == [
        (Job.DELEGATE, {"delegation_id": queued.pk}),
        (Job.A2A_DRAIN, {"workspace_id": waiting.callee_id}),
    ]
    held = stuck()
    html = confirm(browser, act(held, "nudge"))
    assert "its agent has it" in html
    assert OperatorAction.objects.filter(outcome="refused").count() == 1


@committed
def test_one_that_has_ended_meanwhile_is_left_alone(doorbell: Doorbell):
    row = stuck()
    browser = login("operator")
    shown = re.search(r'name="seen" value="(\w*)"', text_of(browser.get(act(row, "resolve"))))
    assert shown
    Delegation.objects.filter(pk=row.pk).update(status=Status.COMPLETED, finished_at=timezone.now())
    answer = browser.post(act(row, "resolve"), {"seen": shown[1], "reason": "late"})
    assert "It has ended" in text_of(answer)
    assert fresh(row).status == Status.COMPLETED
    assert not OperatorAction.objects.exists()


@pytest.mark.parametrize("change", [{"reason": " "}, {"seen": "elsewhere"}])
def test_without_a_reason_or_what_was_shown_nothing_happens(change: dict[str, str]):
    row = stuck()
    browser = login("operator")
    shown = re.search(r'name="seen" value="(\w*)"', text_of(browser.get(act(row, "resolve"))))
    assert shown
    assert browser.post(act(row, "resolve"), {"seen": shown[1], "reason": "x"} | change).status_code == 200
    assert fresh(row).status == Status.STUCK
