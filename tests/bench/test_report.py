from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report
from bench.measurement import Measurement

MACHINE = {"cpu": "one", "cores": "2"}
ROWS = {
    "first": [
        Measurement("a|b", {"per_s": 1734.4, "p50_ms": 9.168, "errors": 0.0}, [], ["quiet"], [1700.0, 1734.4])
    ],
    "second": [Measurement("late", {"p99_ms": float("nan")}, ["too late"])],
}


def test_the_table_has_the_machine_and_one_row_per_measurement() -> None:
    first, blank, head, rule, *rows = report.as_markdown(MACHINE, ROWS).splitlines()
    assert first == "cpu: one, cores: 2"
    assert blank == ""
    assert head.count("|") == rule.count("|")
    assert "| first | a\\|b | 1,734 | 9.17 |" in rows[0]
    assert "2 runs: 1,700 to 1,734 per s" in rows[0]
    assert "**too late**" in rows[1]


def test_the_json_keeps_every_figure_and_knows_no_nan() -> None:
    document = json.loads(report.as_json(MACHINE, {"seconds": 10}, ROWS))
    assert document["machine"] == MACHINE
    assert document["scenarios"]["first"][0]["figures"] == {"per_s": 1734.4, "p50_ms": 9.168, "errors": 0.0}
    assert document["scenarios"]["second"][0]["figures"] == {"p99_ms": None}
    assert document["scenarios"]["second"][0]["problems"] == ["too late"]


def test_problems_are_listed_with_their_place() -> None:
    assert report.failures(ROWS) == ["second, late: too late"]


def test_the_table_is_written_beside_the_json(tmp_path: Path) -> None:
    beside = report.write(tmp_path / "bench.json", b"{}\n", "table\n")
    assert beside == tmp_path / "bench.md"
    assert beside.read_text() == "table\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.2, "0.20"), (9.168, "9.17"), (86.14, "86.1"), (1734.4, "1,734"), (5.0, "5")],
)
def test_figures_show_the_digits_that_mean_something(value: float, text: str) -> None:
    assert report.shown(value) == text
