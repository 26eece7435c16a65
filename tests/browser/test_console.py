"""Operators at their console, in a real browser."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from console.models import OperatorAction
from tests.browser.conftest import Desk
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
    desk.page.locator("[name=reason]").fill("silent since the morning")
    desk.page.locator("[name=typed]").fill("in trouble")
    desk.page.keyboard.press("Enter")
    desk.page.wait_for_url("**/change/")
    assert Workspace.objects.get(pk=row.pk).status == Status.PAUSED
    assert OperatorAction.objects.get().reason == "silent since the morning"


def test_a_viewer_sees_and_is_not_offered_to_act(desk: Desk) -> None:
    row = WorkspaceFactory(name="of others", status=Status.ONLINE)
    desk.log_in("viewer")
    desk.go(f"/console/workspaces/workspace/{row.pk}/change/")
    assert "of others" in desk.page.content()
    assert desk.page.get_by_role("link", name="Pause").count() == 0
    assert desk.status(f"/console/workspaces/workspace/{row.pk}/act/pause/") == 403
