from __future__ import annotations

import math
from array import array
from collections import Counter

import pytest

from bench.measurement import Measurement, of_load, of_repetitions, of_samples
from bench.statistics import Load, Samples, percentile


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.5, 5.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 101)], 1.0, 100.0),
        ([1.0, 2.0], 0.99, 2.0),
    ],
)
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(
    values: list[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


def test_without_samples_there_is_no_percentile() -> None:
    assert math.isnan(percentile([], 0.5))


def samples(*milliseconds: float, statuses: dict[int, int] | None = None) -> Samples:
    return Samples(array("d", milliseconds), Counter(statuses or {200: len(milliseconds)}), 10)


def test_a_rate_counts_the_answers_of_the_measured_time() -> None:
    row = of_samples("x", samples(1, 2, 3, 4), 2.0)
    assert row.figures["per_s"] == 2.0
    assert (row.figures["p50_ms"], row.figures["max_ms"]) == (2.0, 4.0)
    assert row.problems == []


def test_every_answer_that_is_no_success_is_a_problem() -> None:
    row = of_samples("x", samples(1, 2, 3, statuses={200: 1, 429: 1, 500: 1}), 1.0)
    assert row.figures["errors"] == 2.0
    limit, fault = row.problems
    assert "429" in limit
    assert "RATE_LIMIT" in limit
    assert "500" in fault


def test_no_answer_at_all_is_a_problem() -> None:
    assert of_samples("x", samples(), 1.0).problems == ["no answer at all"]


def test_unanswered_requests_and_a_generator_at_its_limit_are_problems() -> None:
    row = of_load("x", Load({"": samples(1)}, 1.0, busy_share=0.97, unanswered=3))
    assert any("3 requests unanswered" in problem for problem in row.problems)
    assert any("generator" in problem for problem in row.problems)


def test_the_processors_time_is_told_per_request() -> None:
    row = of_load("x", Load({"": samples(1, 1)}, 1.0), {"postgres": 0.001, "granian": 0.002})
    assert "processor ms each: granian 1.00, postgres 0.50" in row.remarks


def test_of_several_runs_the_median_is_reported_with_the_problems_of_all() -> None:
    runs = [
        [Measurement("x", {"per_s": rate}, problems)]
        for rate, problems in ((3.0, []), (1.0, ["bad"]), (2.0, []))
    ]
    (row,) = of_repetitions(runs)
    assert row.figures["per_s"] == 2.0
    assert row.problems == ["bad"]
    assert row.runs == [3.0, 1.0, 2.0]
