"""The first page: each number is that of the list behind it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from delegations.models import Delegation, Status
from tests.console.conftest import few_queries, login, text_of
from tests.delegations.factories import delegated, pair
from tests.workspaces.factories import WorkspaceFactory
from workspaces import models as workspaces

pytestmark = pytest.mark.django_db

HOME = "/console/"


def numbers(browser: Client) -> dict[str, tuple[str, str]]:
    """label -> (value, address of the list)."""
    found = re.findall(
        r'<a href="(/console/\w+/\w+/[^"]*)" class="border[^>]*>\s*'
        r"<span[^>]*>([^<]*)</span>\s*<span>([^<]*)</span>",
        text_of(browser.get(HOME)),
    )
    return {label: (value, url.replace("&amp;", "&")) for url, value, label in found}


def listed(browser: Client, url: str) -> int:
    """Rows of the list, by the links to their pages."""
    base = url.partition("?")[0]
    return len(set(re.findall(rf'href="{base}([^/"]+)/change/', text_of(browser.get(url)))))


def test_each_number_is_that_of_its_list():
    now, hour = timezone.now(), timedelta(hours=1)
    gone = WorkspaceFactory(status=workspaces.Status.REMOVED)
    WorkspaceFactory(status=workspaces.Status.REMOVED, cleanup_pending=True)
    for _ in range(3):
        WorkspaceFactory(last_heartbeat_at=now - hour)
    for _ in range(2):
        WorkspaceFactory(status=workspaces.Status.PROVISIONING, provision_deadline_at=now - hour)
    WorkspaceFactory(parent=gone, last_heartbeat_at=now)
    caller, callee = pair(last_heartbeat_at=now)
    for number, status in enumerate([Status.STUCK, Status.STUCK, Status.QUEUED]):
        row = delegated(caller, callee, text=f"task {number}", key=str(number), status=status)
        Delegation.objects.filter(pk=row.pk).update(deadline=now + hour if number else now - hour)
    browser = login("viewer")
    found = numbers(browser)
    assert {label: value for label, (value, _) in found.items() if value != "0"} == {
        "silent workspaces": "5",  # with the team and the caller of `pair`
        "starts past their deadline": "2",
        "below a removed parent": "1",
        "removed, not stopped yet": "1",
        "stuck delegations": "2",
        "overdue delegations": "1",
        "Online": "7",
        "Provisioning": "2",
        "Removed": "2",
        "delegations in flight": "3",
        "staged files": "0 (0.0 MiB)",
    }
    for label, (value, url) in found.items():
        if label != "staged files":
            assert listed(browser, url) == int(value), label


def test_it_costs_the_same_whatever_there_is():
    caller, callee = pair()
    for number in range(20):
        delegated(caller, callee, text="task", key=str(number))
    browser = login("viewer")
    with few_queries(16):
        text_of(browser.get(HOME))


def test_a_late_sweep_is_named():
    html = text_of(login("viewer").get(HOME))
    assert "delegation-sweeper" in html
    assert re.search(r">\s*late\s*<", html)


def test_who_has_no_role_sees_no_numbers():
    WorkspaceFactory()
    html = text_of(login(None).get(HOME))
    assert "Trouble" not in html
    assert "delegation-sweeper" not in html
