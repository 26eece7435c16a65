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
from console.models import OperatorAction, Repair
from console.services import repairs
from console.services.repairs import STALE, carry_on, ring_for_open_repairs
from console.tasks import repair as repair_task
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.memory import InMemoryBackend
from provisioning.services import duplicates
from tests.conftest import at_once
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
    browser = login("administrator")
    answer = repair(browser, "remove 2")
    assert "0 of 2 workspace(s) are gone" in answer.content.decode()
    row = Repair.objects.get()
    assert answer.redirect_chain[-1][0] == f"{PAGE}{row.pk}/"
    assert "is under way" in text_of(browser.get(PAGE))
    repair_task(str(row.pk))
    html = text_of(browser.get(f"{PAGE}{row.pk}/"))
    assert "Ended: done." in html
    assert "2 of 2 workspace(s) are gone" in html
    assert living() == {"Team", "Dev"}
    record = OperatorAction.objects.get()
    assert (record.pk, record.verb, record.outcome) == (row.pk, "workspaces.repair", "done")
    assert (record.reason, record.actor) == ("the imports leaked", "a-administrator")
    assert {str(first.pk), str(second.pk)} <= set(re.findall(r"[0-9a-f-]{36}", record.result))
    assert "There is nothing to remove." in text_of(browser.get(PAGE))


def test_seventy_two_leaked_children_go_by_one_confirmation():
    copies(72)
    repair(login("administrator"), "remove 72")
    carry_on(Repair.objects.get().pk)
    assert living() == {"Team", "Dev"}
    assert OperatorAction.objects.get().outcome == "done"
    assert "72 of 72 are gone" in OperatorAction.objects.get().result


class Killed(BaseException):
    """A worker's process ends between two statements."""


def confirmed(number: int) -> Repair:
    repair(login("administrator"), f"remove {number}")
    return Repair.objects.get()


def let_the_lease_run_out(row: Repair) -> None:
    Repair.objects.filter(pk=row.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=1))


def test_a_worker_that_dies_is_followed_by_another(monkeypatch: pytest.MonkeyPatch):
    copies(9)
    row = confirmed(9)
    real, calls = duplicates.teardown, []

    def dies(*args: Any, **kwargs: Any) -> int:
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(duplicates, "teardown", dies)
    with pytest.raises(Killed):
        carry_on(row.pk)
    assert len(living()) == 2 + 9 - 6
    carry_on(row.pk)  # doubled message: the dead one's lease still holds
    assert len(living()) == 2 + 9 - 6
    assert ring_for_open_repairs() == 0
    let_the_lease_run_out(row)
    assert ring_for_open_repairs() == 1
    carry_on(row.pk)
    assert living() == {"Team", "Dev"}
    # What the dead one had removed and not stopped is still owed; the sweep of workspaces goes on with it.
    assert OperatorAction.objects.get().outcome == "partly"
    assert "9 of 9 are gone" in OperatorAction.objects.get().result
    assert "Their stop is still owed" in OperatorAction.objects.get().result


def stop(browser: Client, row: Repair, reason: str = "enough") -> Any:
    return browser.post(f"{PAGE}{row.pk}/stop/", {"reason": reason}, follow=True)


def test_it_stops_when_asked_after_the_few_under_way(monkeypatch: pytest.MonkeyPatch):
    copies(9)
    row = confirmed(9)
    browser, late = login("administrator", name="another"), login("administrator", name="late")
    real = duplicates.teardown

    def asks(*args: Any, **kwargs: Any) -> int:
        for one in (browser, late):
            stop(one, row)
        return real(*args, **kwargs)

    monkeypatch.setattr(duplicates, "teardown", asks)
    carry_on(row.pk)
    assert len(living()) == 2 + 9 - 3
    record = OperatorAction.objects.get(verb="workspaces.repair")
    assert record.outcome == "partly"
    assert record.result.startswith("3 of 9 are gone, 0 vCPU freed. Stopped by another.")
    assert "Not reached: " in record.result
    stops = OperatorAction.objects.filter(verb="workspaces.repair_stop").values_list(
        "actor", "reason", "outcome"
    )
    assert list(stops) == [("another", "enough", "done")]
    assert "It has ended, or is stopped already." in stop(late, row).content.decode()


def test_one_that_is_stopped_before_it_began_changed_nothing():
    copies(2)
    row = confirmed(2)
    stop(login("administrator", name="another"), row)
    carry_on(row.pk)
    record = OperatorAction.objects.get(verb="workspaces.repair")
    assert (record.outcome, record.result[:14]) == ("refused", "0 of 2 are gon")


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_an_administrator_stops_it(role: str):
    copies(2)
    row = confirmed(2)
    browser = login(role)
    assert "Waits for a worker." in text_of(browser.get(f"{PAGE}{row.pk}/"))
    assert stop(browser, row).status_code == 403
    assert login(None).get(f"{PAGE}{row.pk}/").status_code == 403
    assert Repair.objects.get().stop_asked_by == ""


def test_the_second_confirmation_of_a_plan_is_refused_when_its_turn_comes():
    """Also when it waited for the first one: nothing had begun."""
    copies(4)
    browser = login("administrator")
    form = {"seen": seen(text_of(browser.get(PAGE))), "typed": "remove 4", "reason": "twice"}
    for _ in range(2):
        assert browser.post(PAGE, form).status_code == 302
    first, second = Repair.objects.order_by("created_at")
    with try_lock(duplicates.LOCK):
        carry_on(second.pk)  # has to wait
    carry_on(first.pk)
    carry_on(second.pk)
    outcomes = {one.pk: one.outcome for one in OperatorAction.objects.all()}
    assert outcomes == {first.pk: "done", second.pk: "done"}
    assert living() == {"Team", "Dev"}


def test_one_that_waited_while_its_plan_became_untrue_is_refused():
    _, busy, *_ = copies(4)
    row = confirmed(4)
    with try_lock(duplicates.LOCK):
        carry_on(row.pk)
    Workspace.objects.filter(pk=busy.pk).update(active_tasks=1)
    carry_on(row.pk)
    assert OperatorAction.objects.get().result == STALE
    assert len(living()) == 6


def test_a_plan_that_is_no_longer_true_when_its_turn_comes_removes_nothing():
    _, first, _ = copies(2)
    row = confirmed(2)
    Workspace.objects.filter(pk=first.pk).update(active_tasks=1)
    carry_on(row.pk)
    assert len(living()) == 4
    record = OperatorAction.objects.get()
    assert (record.outcome, record.result) == ("refused", STALE)


def test_who_came_back_to_life_meanwhile_is_kept_and_the_others_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(repairs, "DEFAULT_MAX", 3)
    *_, last = copies(6)
    row = confirmed(6)
    real = duplicates.teardown

    def wakes(*args: Any, **kwargs: Any) -> int:
        Workspace.objects.filter(pk=last.pk).update(status=Status.ONLINE, last_heartbeat_at=timezone.now())
        return real(*args, **kwargs)

    monkeypatch.setattr(duplicates, "teardown", wakes)
    carry_on(row.pk)
    assert living() == {"Team", "Dev", last.name}
    record = OperatorAction.objects.get()
    assert record.outcome == "partly"
    assert f"Not removed: {last.pk} ({repairs.CHANGED})." in record.result


def test_nobody_goes_who_was_not_confirmed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(repairs, "DEFAULT_MAX", 3)
    first, *_ = copies(4)
    row = confirmed(4)
    real, made = duplicates.teardown, []

    def one_more(*args: Any, **kwargs: Any) -> int:
        if not made:
            past = timezone.now() - timedelta(days=8)
            made.append(WorkspaceFactory(name="Dev (9)", parent=first.parent, status=Status.OFFLINE))
            Workspace.objects.filter(pk=made[0].pk).update(created_at=past, status_changed_at=past)
        return real(*args, **kwargs)

    monkeypatch.setattr(duplicates, "teardown", one_more)
    carry_on(row.pk)
    assert living() == {"Team", "Dev", "Dev (9)"}
    assert OperatorAction.objects.get().outcome == "done"


def test_two_workers_at_once_do_it_once():
    copies(6)
    row = confirmed(6)
    at_once(*[lambda: carry_on(row.pk)] * 4)
    assert living() == {"Team", "Dev"}
    assert OperatorAction.objects.get().outcome == "done"


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


def test_while_another_cleanup_runs_it_waits_and_in_the_end_gives_up():
    copies(2)
    row = confirmed(2)
    with try_lock(duplicates.LOCK):
        carry_on(row.pk)
        assert "Waits: another cleanup is running." in text_of(login("viewer").get(f"{PAGE}{row.pk}/"))
        assert OperatorAction.objects.get().outcome == "started"
        Repair.objects.update(created_at=timezone.now() - repairs.PATIENCE - timedelta(seconds=1))
        carry_on(row.pk)
    assert len(living()) == 4
    assert OperatorAction.objects.get().outcome == "failed"
    assert ring_for_open_repairs() == 0


def test_an_error_that_nobody_foresaw_is_tried_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    copies(2)
    row = confirmed(2)

    def breaks(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(repairs, "plan_cleanup", breaks)
        carry_on(row.pk)
        assert ring_for_open_repairs() == 1
        Repair.objects.update(created_at=timezone.now() - repairs.PATIENCE - timedelta(seconds=1))
        carry_on(row.pk)
    assert ring_for_open_repairs() == 0
    assert OperatorAction.objects.get().outcome == "failed"


def test_a_repair_that_waited_goes_on_when_rung_for():
    copies(2)
    row = confirmed(2)
    with try_lock(duplicates.LOCK):
        carry_on(row.pk)
    assert ring_for_open_repairs() == 1
    carry_on(row.pk)
    assert living() == {"Team", "Dev"}


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
    carry_on(Repair.objects.get().pk)
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
