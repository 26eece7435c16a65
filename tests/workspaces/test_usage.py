"""/workspaces/:id/metrics: what an agent used of its model today."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, TokenUsage, Workspace
from workspaces.services import record_usage
from workspaces.services.usage import day_of

pytestmark = pytest.mark.django_db


def metrics(row: Workspace) -> Any:
    return agent_of(row.pk).get(f"/workspaces/{row.pk}/metrics").json()


def use(row: Workspace, used_in: int, used_out: int, **when: Any) -> None:
    record_usage(workspace_id=row.pk, input_tokens=used_in, output_tokens=used_out, **when)


def test_a_day_without_calls_is_all_zeros():
    row, today = WorkspaceFactory(), day_of(timezone.now())
    body = metrics(row)
    assert datetime.fromisoformat(body.pop("period_start")) in {today, today + timedelta(days=1)}
    assert body.pop("period_end")[10:] == "T00:00:00Z"
    assert body == {
        "input_tokens": 0, "output_tokens": 0, "total_calls": 0, "estimated_cost_usd": "0.000000",
    }  # fmt: skip


def test_the_period_is_the_utc_day():
    body = metrics(WorkspaceFactory())
    start, end = (datetime.fromisoformat(body[key]) for key in ("period_start", "period_end"))
    assert start.tzinfo is not None
    assert (start.hour, start.minute, end - start) == (0, 0, timedelta(days=1))
    assert body["period_start"] == start.strftime("%Y-%m-%dT00:00:00Z")
    late = datetime.fromisoformat("2026-03-01T01:30:00+02:00")
    assert day_of(late) == datetime(2026, 2, 28, tzinfo=UTC)


def test_calls_add_up_and_their_cost_is_exact():
    row = WorkspaceFactory()
    use(row, 1, 1)
    use(row, 100, 0)
    use(row, 0, 7)
    body = metrics(row)
    assert (body["input_tokens"], body["output_tokens"], body["total_calls"]) == (101, 8, 3)
    assert body["estimated_cost_usd"] == "0.000423"  # 101 x 0.000003 + 8 x 0.000015


def test_counts_are_clamped_and_a_call_that_used_nothing_counts_as_none():
    row = WorkspaceFactory()
    for pair in ((0, 0), (-5, 0), (-5, -5)):
        use(row, *pair)
    assert not TokenUsage.objects.exists()
    use(row, -5, 10**9)
    used = TokenUsage.objects.get()
    assert (used.input_tokens, used.output_tokens, used.call_count) == (0, 10_000_000, 1)


def test_each_day_has_its_own_row():
    row, now = WorkspaceFactory(), timezone.now()
    use(row, 5, 0, now=now - timedelta(days=1))
    use(row, 7, 0, now=now)
    assert list(TokenUsage.objects.order_by("period_start").values_list("input_tokens", flat=True)) == [5, 7]
    assert metrics(row)["input_tokens"] == 7


@pytest.mark.django_db(transaction=True)
def test_calls_at_once_are_all_counted():
    row = WorkspaceFactory()
    at_once(*[lambda: use(row, 1, 1)] * 8)
    assert metrics(row)["total_calls"] == 8


def test_a_full_cost_column_loses_no_counts():
    row = WorkspaceFactory()
    use(row, 1, 0)
    TokenUsage.objects.update(estimated_cost_usd=Decimal("999999.999999"))
    use(row, 1, 0)
    body = metrics(row)
    assert (body["total_calls"], body["estimated_cost_usd"]) == (2, "999999.999999")


def test_recording_never_disturbs_its_caller(caplog):
    row = WorkspaceFactory()
    with statements_fail("workspace_token_usage"):
        use(row, 1, 1)
    full = WorkspaceFactory()
    use(full, 1, 1)
    TokenUsage.objects.update(input_tokens=2**63 - 1)
    use(full, 1, 1)  # the database itself refuses, in the middle of the caller's transaction
    TokenUsage.objects.all().delete()
    use(Workspace(id=uuid4()), 1, 1)
    use(WorkspaceFactory(status=Status.REMOVED), 1, 1)
    assert not TokenUsage.objects.exists()
    assert "usage.not_recorded" in caplog.text
    use(row, 1, 1)  # the caller's transaction still works
    assert TokenUsage.objects.count() == 1


def test_metrics_are_the_workspaces_own():
    row, other = WorkspaceFactory(), WorkspaceFactory()
    path = f"/workspaces/{row.pk}/metrics"
    assert admin().get(path).status_code == 200
    assert anonymous().get(path).status_code == 401
    assert agent_of(other.pk).get(path).status_code == 401
    for gone in (uuid4(), WorkspaceFactory(status=Status.REMOVED).pk):
        assert admin().get(f"/workspaces/{gone}/metrics").status_code == 404
