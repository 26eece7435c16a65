"""Repair of leaks as a page: what it shows is what it does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from config.locks import try_lock
from console.confirmation import CHANGED
from console.models import OperatorAction
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.memory import InMemoryBackend
from provisioning.services import duplicates
from tests.console.conftest import login, text_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/console/workspaces/workspace/repair/"


@pytest.fixture(autouse=True)
def backend(valkey: Any) -> Iterator[InMemoryBackend]:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    yield memory
    dispatch.choose_again()


def copies(number: int, *, parent: Workspace | None = None, **fields: Any) -> list[Workspace]:
    """One that is kept and `number` copies of it, silent for days."""
    parent = parent or WorkspaceFactory(name="Team", last_heartbeat_at=timezone.now())
    made = [
        WorkspaceFactory(
            name="Dev" if not one else f"Dev ({one + 1})", parent=parent, status=Status.OFFLINE, **fields
        )
        for one in range(number + 1)
    ]
    past = timezone.now() - timedelta(days=9)
    for age, row in enumerate(made):  # the first is the oldest, and kept
        at = past + timedelta(minutes=age)
        Workspace.objects.filter(pk=row.pk).update(created_at=at, status_changed_at=at)
    return made


def seen(html: str) -> str:
    found = re.search(r'name="seen" value="(\w+)"', html)
    assert found, "the page offers nothing to confirm"
    return found[1]


def living() -> set[str]:
    return set(Workspace.objects.live().values_list("name", flat=True))


def repair(browser: Client, typed: str, path: str = PAGE, **change: str) -> Any:
    form = {"seen": seen(text_of(browser.get(path))), "typed": typed, "reason": "the imports leaked"}
    return browser.post(path, form | change, follow=True)


def test_it_shows_what_stays_what_goes_and_why():
    _, _, busy, _ = copies(3)
    Workspace.objects.filter(pk=busy.pk).update(active_tasks=2)
    browser = login("administrator")
    html = text_of(browser.get(PAGE))
    assert "1 group(s) of copies: 2 to remove (0 vCPU), 1 blocked, 1 kept" in html
    assert "has 2 active task(s)" in html
    assert duplicates.plan_cleanup(duplicates.Options()).fingerprint in html
    assert len(living()) == 5
    assert not OperatorAction.objects.exists()
    assert PAGE in text_of(browser.get("/console/workspaces/workspace/"))


def test_what_was_shown_is_removed_and_recorded():
    _, first, second = copies(2)
    answer = repair(login("administrator"), "remove 2")
    assert "2 removed, 0 vCPU freed, 0 remain." in answer.content.decode()
    assert "There is nothing to remove." in answer.content.decode()  # the next plan
    assert living() == {"Team", "Dev"}
    record = OperatorAction.objects.get()
    assert (record.verb, record.outcome, record.reason) == ("workspaces.repair", "done", "the imports leaked")
    assert {str(first.pk), str(second.pk)} <= set(re.findall(r"[0-9a-f-]{36}", record.result))


def test_seventy_two_leaked_children_go_in_four_rounds():
    copies(72)
    browser = login("administrator")
    for goes, remain in ((20, 52), (20, 32), (20, 12), (12, 0)):
        answer = repair(browser, f"remove {goes}")
        assert f"{goes} removed, 0 vCPU freed, {remain} remain." in answer.content.decode()
    assert living() == {"Team", "Dev"}
    assert OperatorAction.objects.filter(outcome="done").count() == 4


@pytest.mark.parametrize(
    "change", [{"typed": "remove 3"}, {"typed": ""}, {"reason": ""}, {"seen": "0000"}, {"seen": ""}]
)
def test_without_the_number_a_reason_or_the_plan_nothing_goes(change: dict[str, str]):
    copies(2)
    repair(login("administrator"), **({"typed": "remove 2"} | change))
    assert len(living()) == 4
    assert not OperatorAction.objects.exists()


def test_a_plan_that_has_changed_is_shown_again():
    _, first, _ = copies(2)
    browser = login("administrator")
    form = {"seen": seen(text_of(browser.get(PAGE))), "typed": "remove 2", "reason": "leaked"}
    Workspace.objects.filter(pk=first.pk).update(active_tasks=1)
    assert CHANGED in text_of(browser.post(PAGE, form))
    assert len(living()) == 4


def test_a_plan_that_changes_under_the_hand_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Between the page's look and the removal the verb's own look decides."""
    _, first, _ = copies(2)
    from console import confirmation

    real = confirmation.act

    def busy(asked: Any, verb: Any) -> Any:
        Workspace.objects.filter(pk=first.pk).update(active_tasks=1)
        return real(asked, verb)

    monkeypatch.setattr(confirmation, "act", busy)
    repair(login("administrator"), "remove 2")
    assert len(living()) == 4
    assert OperatorAction.objects.get().outcome == "refused"


def test_two_operators_at_once_do_not_remove_twice():
    copies(2)
    browser = login("administrator")
    with try_lock(duplicates.LOCK):
        answer = repair(browser, "remove 2")
    assert "another cleanup is running" in answer.content.decode()
    assert len(living()) == 4


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_an_administrator_removes(role: str):
    copies(2)
    browser = login(role)
    html = text_of(browser.get(PAGE))
    assert "Removing needs the role administrator." in html
    assert 'name="seen"' not in html
    plan = duplicates.plan_cleanup(duplicates.Options()).fingerprint
    form = {"seen": plan, "typed": "remove 2", "reason": "leaked"}
    assert browser.post(PAGE, form).status_code == 403
    assert len(living()) == 4
    assert login(None).get(PAGE).status_code == 403


def test_options_make_another_plan_and_stay_with_it():
    WorkspaceFactory(name="Team", last_heartbeat_at=timezone.now())
    team = Workspace.objects.get()
    past = timezone.now() - timedelta(days=40)
    lone = WorkspaceFactory(name="Lone", parent=team, status=Status.OFFLINE)
    Workspace.objects.filter(pk=lone.pk).update(created_at=past, status_changed_at=past)
    browser = login("administrator")
    assert "There is nothing to remove." in text_of(browser.get(PAGE))
    with_days = f"{PAGE}?stale_days=30"
    repair(browser, "remove 1", with_days)
    assert living() == {"Team"}
    assert "These options make no plan." in text_of(browser.get(f"{PAGE}?stale_days=0"))


def test_without_a_look_at_compute_there_is_no_plan(backend: InMemoryBackend):
    copies(1)

    def unlisted() -> Any:
        raise BackendError(ErrorClass.TRANSIENT, "the daemon does not answer", detail="x", retryable=True)

    backend.list_managed = unlisted  # type: ignore[method-assign]
    html = text_of(login("administrator").get(PAGE))
    assert "the daemon does not answer" in html
    assert 'name="seen"' not in html
