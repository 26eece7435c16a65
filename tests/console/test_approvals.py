"""The operators' pages about approvals: a decision has a reason, and leaves a record."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from activity.events import Frame
from approvals.models import Approval
from console.models import OperatorAction
from tests.approvals.factories import ApprovalFactory
from tests.console.conftest import login, text_of

pytestmark = pytest.mark.django_db


def decide(browser: Client, row: Approval, name: str = "approve", reason: str = "asked for by Ada") -> Any:
    path = f"/console/approvals/approval/{row.pk}/act/{name}/"
    shown = browser.get(path)
    if shown.status_code != 200:
        return shown
    found = re.search(r'name="seen" value="(\w*)"', shown.content.decode())
    return browser.post(path, {"seen": found[1] if found else "", "reason": reason}, follow=True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("name", "status"), [("approve", "approved"), ("deny", "denied")])
def test_an_operator_decides_once_with_a_reason(name: str, status: str, published: list[Frame]):
    row = ApprovalFactory()
    browser = login("operator")
    assert "/act/approve/" in text_of(browser.get(f"/console/approvals/approval/{row.pk}/change/"))
    decide(browser, row, name, reason=" ")
    assert not OperatorAction.objects.exists()
    decide(browser, row, name)
    row.refresh_from_db()
    assert (row.status, row.decided_by, row.decided_actor) == (status, "a-operator", "console:a-operator")
    record = OperatorAction.objects.get()
    assert (record.verb, record.object_id, record.outcome) == (f"approval.{name}", str(row.pk), "done")
    assert "APPROVAL_DECIDED" in [frame.event for frame in published]
    assert "It has been decided already." in decide(browser, row).content.decode()
    assert OperatorAction.objects.count() == 1


def test_a_viewer_does_not_decide():
    row = ApprovalFactory()
    browser = login("viewer")
    assert "/act/approve/" not in text_of(browser.get(f"/console/approvals/approval/{row.pk}/change/"))
    assert decide(browser, row).status_code == 403
    assert decide(login("operator"), row, "explode").status_code == 404
