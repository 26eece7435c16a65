"""The alert rules, the dashboard and the runbook speak of metrics we have, in PromQL that parses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from django.conf import settings

from activity import metrics

DOCS = Path(settings.BASE_DIR) / "docs"
PACK = DOCS / "operations" / "observability"
OURS = re.compile(r"\bmolecule_[a-z0-9_]+")


def known() -> set[str]:
    """Every series name of the exposition."""
    plain = {family.name for family in metrics.COUNTERS}
    plain |= {family.name for family, _ in metrics.gauges} | {
        family.name for family, _ in metrics._own_gauges()
    }
    return plain | {
        f"{family.name}_{part}" for family in metrics.HISTOGRAMS for part in ("bucket", "sum", "count")
    }


def problems(expression: str) -> list[str]:
    """What is wrong with a query: it does not parse, or names what the product does not export."""
    try:
        promql_parser.parse(expression)
    except ValueError as error:
        return [f"{expression}: {error}"]
    names = set(OURS.findall(expression))
    return [f"{name} is no metric of ours" for name in sorted(names - known())] or (
        [] if names else [f"{expression}: no metric of ours"]
    )


def rules() -> list[dict[str, Any]]:
    given = yaml.safe_load((PACK / "alerts.yaml").read_text())
    return [rule for group in given["groups"] for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads((PACK / "dashboard.json").read_text())["panels"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_is_about_something_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"]) == []
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))


def test_the_runbook_has_each_alarm_once_and_no_other() -> None:
    headings = re.findall(r"^## (\w+)$", (DOCS / "operations.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules()]


@pytest.mark.parametrize("panel", list(panels()), ids=lambda panel: panel["title"])
def test_a_panel_shows_metrics_of_ours(panel: dict[str, Any]) -> None:
    assert [found for target in panel["targets"] for found in problems(target["expr"])] == []


def test_no_panel_lies_upon_another() -> None:
    cells = [
        (column, row)
        for panel in panels()
        for at in [panel["gridPos"]]
        for column in range(at["x"], at["x"] + at["w"])
        for row in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels()}) == len(list(panels()))


def test_the_check_fires() -> None:
    assert problems("molecule_nothing > 0") == ["molecule_nothing is no metric of ours"]
    assert problems("sum(molecule_workspaces") != []
    assert problems("up == 0") == ["up == 0: no metric of ours"]
    assert problems('max(molecule_workspaces{status="failed"}) > 0') == []


def test_what_operators_are_told_to_run_exists() -> None:
    told = set(re.findall(r"manage\.py (\w+)", (DOCS / "operations.md").read_text()))
    commands = {path.stem for path in Path(settings.BASE_DIR).glob("*/management/commands/*.py")}
    assert told <= commands
