"""/workspaces/:id/budget, in USD cents per month."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from config.errors import NotFound
from tests.clients import admin, agent_of, anonymous
from tests.outages import statements_fail
from tests.workspaces.factories import WorkspaceFactory
from workspaces.budgets import effective_spend
from workspaces.models import Status, Workspace
from workspaces.services import set_budget

pytestmark = pytest.mark.django_db


def path(row: Workspace) -> str:
    return f"/workspaces/{row.pk}/budget"


def spending(spent: int, limit: int | None = None, **fields: Any) -> Workspace:
    this_month = timezone.now().date().replace(day=1)
    return WorkspaceFactory(
        **{"monthly_spend": spent, "budget_limit": limit, "spend_month": this_month, **fields}
    )


@pytest.mark.parametrize(
    ("spent", "limit", "remaining"), [(0, None, None), (30, None, None), (30, 100, 70), (130, 100, -30)]
)
def test_what_is_left_is_the_limit_less_the_spend(spent, limit, remaining):
    row = spending(spent, limit)
    body = {
        "budget_limit": limit,
        "monthly_spend": spent,
        "budget_used": spent,
        "budget_remaining": remaining,
    }
    assert agent_of(row.pk).get(path(row)).json() == body


@pytest.mark.parametrize("limit", [0, 1, 500.0, 10**12, None])
def test_an_operator_sets_and_lifts_the_limit(limit):
    row = spending(30, 100)
    answer = admin().patch(path(row), {"budget_limit": limit})
    assert answer.status_code == 200
    assert answer.json() == admin().get(path(row)).json()
    row.refresh_from_db()
    assert row.budget_limit == limit


def test_an_agent_cannot_lift_its_own_limit():
    row = spending(0, 100)
    refused = agent_of(row.pk).patch(path(row), {"budget_limit": None})
    assert (refused.status_code, refused.json()) == (401, {"error": "invalid admin auth token"})
    assert anonymous().patch(path(row), {"budget_limit": None}).status_code == 401
    for caller in (agent_of(row.pk), admin()):
        assert caller.patch(f"/workspaces/{row.pk}", {"budget_limit": None}).status_code == 200
    row.refresh_from_db()
    assert row.budget_limit == 100


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "invalid request body"),
        ("text", "invalid request body"),
        ({}, "budget_limit field is required"),
        ({"budget_limit": -1}, "budget_limit must be >= 0 (USD cents)"),
        ({"budget_limit": "5"}, "budget_limit must be an integer (USD cents) or null"),
        ({"budget_limit": True}, "budget_limit must be an integer (USD cents) or null"),
        ({"budget_limit": 1.5}, "budget_limit must be an integer (USD cents) or null"),
        ({"budget_limit": 10**30}, "budget_limit must be an integer (USD cents) or null"),
        ({"budget_limit": [1]}, "budget_limit must be an integer (USD cents) or null"),
    ],
)
def test_a_limit_that_is_none_is_refused_in_words(body, text):
    row = spending(0, 100)
    answer = admin().patch(path(row), body)
    assert (answer.status_code, answer.json()) == (400, {"error": text})
    row.refresh_from_db()
    assert row.budget_limit == 100


def test_a_removed_or_unknown_workspace_has_no_budget():
    for gone in (WorkspaceFactory(status=Status.REMOVED), Workspace(id=uuid4())):
        assert admin().get(path(gone)).status_code == 404
        assert admin().patch(path(gone), {"budget_limit": 1}).status_code == 404


def test_a_workspace_removed_meanwhile_gets_no_limit():
    row = WorkspaceFactory(status=Status.REMOVED, budget_limit=5)
    with pytest.raises(NotFound):
        set_budget(workspace_id=row.pk, limit=7)
    row.refresh_from_db()
    assert row.budget_limit == 5


def test_a_database_that_refuses_is_told_in_fixed_words():
    row = spending(0, 100)
    with statements_fail('UPDATE "workspaces"'):
        answer = admin().patch(path(row), {"budget_limit": 5})
    assert (answer.status_code, answer.json()) == (500, {"error": "update failed"})


@pytest.mark.parametrize(
    ("month", "counted"),
    [
        (date(2026, 2, 1), 0),
        (date(2025, 3, 1), 0),
        (date(2026, 3, 1), 40),
        (date(2026, 4, 1), 40),  # a clock ahead of ours
        (None, 40),
    ],
)
def test_the_spend_of_a_past_month_no_longer_counts(month, counted):
    assert effective_spend(40, month, now=datetime(2026, 3, 1, tzinfo=UTC)) == counted


def test_a_new_month_begins_at_midnight_utc():
    last = datetime.fromisoformat("2026-04-01T01:00:00+02:00")  # still March in UTC
    assert effective_spend(40, date(2026, 3, 1), now=last) == 40


def test_every_route_shows_a_past_months_spend_as_zero():
    row = spending(90, 100, spend_month=date(2020, 1, 1))
    body = {"budget_limit": 100, "monthly_spend": 0, "budget_used": 0, "budget_remaining": 100}
    assert admin().get(path(row)).json() == body
    assert admin().patch(path(row), {"budget_limit": 100}).json() == body
    (listed,) = admin().get("/workspaces").json()
    assert (listed["monthly_spend"], listed["budget_used"]) == (0, 0)
    assert "spend_month" not in listed
