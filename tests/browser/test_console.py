"""Operators at their console, in a real browser."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from console.models import OperatorAction
from delegations.models import Delegation
from delegations.models import Status as DelegationStatus
from tests.browser.conftest import Desk
from tests.console.test_repair import backend, copies  # noqa: F401
from tests.delegations.factories import delegated, pair
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
    while "to remove" in desk.page.content() and desk.page.locator("[name=reason]").count():
        desk.confirm("an import that ran 72 times")
    left = set(Workspace.objects.live().values_list("pk", flat=True))
    assert kept.pk in left
    assert not left & {row.pk for row in others}
    assert {one.reason for one in OperatorAction.objects.all()} == {"an import that ran 72 times"}
