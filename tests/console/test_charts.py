"""The last day in pictures: what was sampled is what is drawn."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest

from activity.counters import count
from activity.models import BackgroundJob
from config.jobs import Job
from console.charts import BIN, Chart, delegation_charts, fleet_charts
from console.models import FleetSample
from console.services.samples import KEPT, take_sample
from console.tasks import fleet_sampler
from delegations.models import Status
from tests.console.conftest import few_queries, login, text_of
from tests.delegations.factories import delegated, pair

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 1, 12, 7, tzinfo=UTC)


def lines(chart: Chart) -> dict[str, list[Any]]:
    return {one["label"]: one["data"] for one in json.loads(chart.data)["datasets"]}


def sampled(*values: dict[str, int] | None) -> None:
    """The newest last, a quarter of an hour apart."""
    for back, one in enumerate(reversed(values)):
        if one is not None:
            FleetSample.objects.create(at=NOW - BIN * back, values=one)


def test_a_sample_holds_states_as_they_are_and_counters_as_they_stand():
    caller, callee = pair()
    for number, status in enumerate([Status.QUEUED, Status.QUEUED, Status.STUCK]):
        delegated(caller, callee, text="task", key=str(number), status=status)
    count("molecule_delegation_transitions_total", 4, to="completed", via="report")
    count("molecule_delegation_transitions_total", 3, to="failed", via="sweep")
    count("molecule_http_requests_total", 90, method="GET", path="/a", status="200")
    count("molecule_http_requests_total", 2, method="GET", path="/a", status="503")
    count("molecule_a2a_requests_total", 5, kind="answer")
    count("molecule_a2a_requests_total", 6, kind="unreachable")
    count("molecule_job_runs_total", 7, job="x", outcome="error")
    count("molecule_provision_runs_total", 8, backend="b", kind="start", result="failed", error_class="")
    take_sample(NOW)
    values = FleetSample.objects.get(at=NOW).values
    assert values == {
        "delegations.queued": 2,
        "delegations.dispatched": 0,
        "delegations.in_progress": 0,
        "delegations.stuck": 1,
        "completed": 4,
        "failed": 3,
        "requests": 92,
        "requests_failed": 2,
        "messages_failed": 6,
        "jobs_failed": 7,
        "starts_failed": 8,
    }


def test_old_samples_go_and_two_samplers_of_one_moment_leave_one():
    FleetSample.objects.create(at=NOW - KEPT - timedelta(seconds=1), values={})
    FleetSample.objects.create(at=NOW - KEPT + timedelta(minutes=1), values={})
    take_sample(NOW)
    take_sample(NOW)
    assert FleetSample.objects.count() == 2


def test_states_are_drawn_as_they_were_and_counters_by_what_they_grew():
    sampled(
        {"delegations.stuck": 9, "completed": 100, "failed": 1},
        {"delegations.stuck": 2, "completed": 130, "failed": 1},
        {"delegations.stuck": 0, "completed": 131, "failed": 4},
    )
    in_flight, ended = delegation_charts(NOW)
    assert lines(in_flight)["stuck"][-3:] == [9, 2, 0]
    assert lines(ended) == {
        "completed": [None] * 94 + [30, 1],
        "failed": [None] * 94 + [0, 3],
    }
    assert ended.says == "1 completed, 3 failed"
    assert json.loads(ended.data)["labels"][-1] == "12:00"


def test_the_last_sample_of_a_quarter_counts():
    sampled({"delegations.stuck": 1})
    FleetSample.objects.create(at=NOW - timedelta(minutes=2), values={"delegations.stuck": 5})
    assert lines(delegation_charts(NOW)[0])["stuck"][-1] == 1


def test_a_gap_is_a_gap_and_emptied_counters_are_no_negative_number():
    sampled({"jobs_failed": 50}, None, {"jobs_failed": 60}, {"jobs_failed": 3})
    jobs = lines(fleet_charts(NOW)[2])["jobs"]
    assert jobs[-3:] == [None, None, 3]
    assert "3 jobs" in fleet_charts(NOW)[2].says


def test_without_any_sample_the_page_says_so_by_dashes():
    assert fleet_charts(NOW)[0].says == "— queued, — dispatched, — in progress, — stuck"


def test_a_full_day_costs_one_query():
    FleetSample.objects.bulk_create(
        FleetSample(at=NOW - timedelta(minutes=back), values={"delegations.stuck": back})
        for back in range(2000)
    )
    with few_queries(1):
        (first, *_) = fleet_charts(NOW)
    assert None not in lines(first)["stuck"]


@pytest.mark.django_db(transaction=True)
def test_the_job_takes_one_and_ticks():
    fleet_sampler()
    assert FleetSample.objects.count() == 1
    assert BackgroundJob.objects.get(pk=Job.FLEET_SAMPLER).last_error is None


@pytest.mark.parametrize(("path", "charts"), [("/console/", 3), ("/console/delegations/delegation/", 2)])
def test_the_pages_carry_the_charts(path: str, charts: int):
    html = text_of(login("viewer").get(path))
    found = [json.loads(unescape(one)) for one in re.findall(r'data-value="([^"]+)"', html)]
    assert [len(one["labels"]) for one in found] == [96] * charts
