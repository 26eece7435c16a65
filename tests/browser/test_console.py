"""Operators at their console, in a real browser."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

from console.models import FleetSample, OperatorAction, Repair
from console.services.repairs import carry_on
from delegations.models import IN_FLIGHT, Delegation
from delegations.models import Status as DelegationStatus
from provisioning.models import ProvisionRun
from tests.browser.conftest import Desk
from tests.console.test_repair import backend, copies  # noqa: F401
from tests.delegations.factories import delegated, pair
from tests.provisioning.conftest import queued
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]


def test_an_operator_logs_in_by_keyboard_and_sees_the_console(desk: Desk) -> None:
    desk.go("/console/login/")
    desk.picture("login")
    desk.log_in("operator")
    assert "Workspaces" in desk.page.content()
    desk.picture("home")


def test_an_operator_finds_a_workspace_and_pauses_it(desk: Desk) -> None:
    for number in range(5):
        WorkspaceFactory(name=f"quiet {number}", status=Status.ONLINE)
    row = WorkspaceFactory(
        name="in trouble", status=Status.ONLINE, last_heartbeat_at=timezone.now() - timedelta(hours=3)
    )
    desk.log_in("operator")
    desk.go("/console/workspaces/workspace/?q=trouble")
    desk.picture("workspaces")
    desk.page.get_by_role("link", name="in trouble").first.click()
    desk.picture("workspace")
    desk.page.get_by_role("link", name="Pause").first.click()
    desk.picture("pause")
    desk.confirm("silent since the morning")
    assert Workspace.objects.get(pk=row.pk).status == Status.PAUSED
    assert OperatorAction.objects.get().reason == "silent since the morning"


def test_a_viewer_sees_and_is_not_offered_to_act(desk: Desk) -> None:
    row = WorkspaceFactory(name="of others", status=Status.ONLINE)
    desk.log_in("viewer")
    desk.go(f"/console/workspaces/workspace/{row.pk}/change/")
    assert "of others" in desk.page.content()
    assert desk.page.get_by_role("link", name="Pause").count() == 0
    assert desk.status(f"/console/workspaces/workspace/{row.pk}/act/pause/") == 403


def test_an_operator_resolves_the_stuck_delegation(desk: Desk) -> None:
    caller, callee = pair()
    row = delegated(caller, callee)
    Delegation.objects.filter(pk=row.pk).update(status=DelegationStatus.STUCK)
    desk.log_in("operator")
    desk.go("/console/delegations/delegation/")
    desk.picture("delegations")
    desk.page.locator(f"a[href*='{row.pk}/change']").first.click()
    desk.picture("delegation")
    desk.page.get_by_role("link", name="Resolve").first.click()
    desk.picture("resolve")
    desk.confirm("the agent is gone for good")
    assert Delegation.objects.get(pk=row.pk).status == DelegationStatus.FAILED
    assert OperatorAction.objects.get().reason == "the agent is gone for good"


def test_an_administrator_repairs_a_team_that_was_made_seventy_two_times(desk: Desk) -> None:
    kept, *others = copies(72)
    desk.log_in("administrator")
    desk.go("/console/workspaces/workspace/repair/")
    assert "72 to remove" in desk.page.content()
    desk.picture("repair")
    desk.confirm("an import that ran 72 times")
    desk.page.get_by_text("0 of 72 workspace(s) are gone").wait_for()
    desk.picture("repair-under-way")
    desk.page.evaluate("window.isTheSamePage = true")
    carry_on(Repair.objects.get().pk)  # what a worker does
    desk.page.get_by_text("Ended: done.").wait_for(timeout=60_000)
    desk.page.get_by_text("72 of 72 workspace(s) are gone").wait_for()
    assert desk.page.evaluate("window.isTheSamePage")
    desk.picture("repair-ended")
    desk.page.get_by_role("link", name="The next plan").click()
    desk.page.get_by_text("There is nothing to remove.").wait_for()
    left = set(Workspace.objects.live().values_list("pk", flat=True))
    assert kept.pk in left
    assert not left & {row.pk for row in others}
    assert OperatorAction.objects.get().reason == "an import that ran 72 times"


def test_a_viewer_watches_a_start_and_need_not_reload(desk: Desk) -> None:
    row = queued()
    run = ProvisionRun.objects.filter(workspace_id=row.pk)
    desk.log_in("viewer")
    desk.picture("home-with-a-start")
    line = desk.page.get_by_role("row").filter(has_text=str(row.pk))
    assert "queued" in line.inner_text()
    lease = {"lease_owner": "a worker", "lease_expires_at": timezone.now() + timedelta(hours=1)}
    desk.page.evaluate("window.isTheSamePage = true")
    run.update(state="running", steps=[{"name": "pulling the image"}], **lease)
    desk.page.get_by_text("pulling the image").wait_for(timeout=60_000)
    run.update(state="succeeded", lease_owner=None, lease_expires_at=None, finished_at=timezone.now())
    line.wait_for(state="detached", timeout=60_000)
    assert desk.page.evaluate("window.isTheSamePage")  # never loaded anew


def test_the_charts_of_the_last_day_follow_without_a_reload(desk: Desk) -> None:
    now = timezone.now()
    for back in range(0, 1440, 15):
        wave = {f"delegations.{one}": (back // 15 + place) % 9 for place, one in enumerate(sorted(IN_FLIGHT))}
        values = {"completed": 2000 - back, "failed": 100 - back // 15, "jobs_failed": 90 - back // 20}
        FleetSample.objects.create(at=now - timedelta(minutes=back), values=wave | values)
    desk.log_in("viewer")
    desk.picture("home-with-charts")
    stuck = desk.page.get_by_text("stuck", exact=False).first
    stuck.wait_for()
    links = desk.page.locator("#numbers a")
    links.nth(2).focus()
    held = links.nth(2).get_attribute("href")
    FleetSample.objects.create(at=timezone.now(), values={f"delegations.{DelegationStatus.STUCK}": 77})
    WorkspaceFactory(name="late", status=Status.FAILED, last_sample_error="no image")
    desk.page.get_by_text("77 stuck").wait_for(timeout=60_000)
    drawn = desk.page.evaluate(
        "Object.values(Chart.instances).map(one => one.data.datasets.at(-1).data.at(-1))"
    )
    assert drawn[0] == 77
    assert len(drawn) == 3  # none left behind by the rounds
    assert desk.page.evaluate("document.activeElement.getAttribute('href')") == held
    desk.go("/console/delegations/delegation/")
    desk.picture("delegations-with-charts")


def test_who_is_logged_out_is_led_to_the_login(desk: Desk) -> None:
    desk.log_in("viewer")
    Session.objects.all().delete()
    desk.page.wait_for_url("**/console/login/**", timeout=60_000)


def test_a_server_that_does_not_answer_is_told(desk: Desk) -> None:
    desk.log_in("viewer")
    desk.page.get_by_text("As of").wait_for(timeout=60_000)
    desk.page.route("**/console/", lambda route: route.abort())
    desk.page.get_by_text("The server does not answer; this is what it said last.").first.wait_for(
        timeout=60_000
    )
    desk.page.unroute("**/console/")
    desk.page.get_by_text("As of").wait_for(timeout=60_000)
    desk.complaints.clear()  # the refusals above are in the console too


def test_a_viewer_finds_the_broken_one_in_the_tree(desk: Desk) -> None:
    root = WorkspaceFactory(name="root", status=Status.ONLINE)
    leads = [
        WorkspaceFactory(name=f"lead {number}", parent=root, status=Status.ONLINE) for number in range(3)
    ]
    Workspace.objects.bulk_create(
        Workspace(name=f"w{number}", tier=1, parent=leads[number % 3], status=Status.ONLINE)
        for number in range(1500)
    )
    broken = WorkspaceFactory(name="broken", status=Status.FAILED, last_sample_error="no image")
    desk.log_in("viewer")
    desk.go("/console/workspaces/workspace/tree/")
    desk.page.get_by_text("1505 workspaces, 1 broken").wait_for()
    desk.picture("tree")
    desk.page.locator("canvas#tree[data-drawn='1505']").wait_for()
    Workspace.objects.exclude(pk=broken.pk).delete()
    desk.page.get_by_text("1 workspaces, 1 broken").wait_for(timeout=60_000)  # without a reload
    tree = desk.page.locator("canvas#tree")
    tree.focus()
    for key in ("0", "+", "ArrowLeft", "0"):
        desk.page.keyboard.press(key)
    box = tree.bounding_box()
    assert box
    tree.click(position={"x": box["width"] / 2, "y": 30})
    desk.page.wait_for_url(f"**/{broken.pk}/change/")
