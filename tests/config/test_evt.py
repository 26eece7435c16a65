from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from config.evt import evt


@pytest.fixture
def lines(caplog: Any) -> Any:
    caplog.set_level(logging.INFO, logger="molecule.evt")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "molecule.evt"]


def test_a_line_is_the_name_and_sorted_json(lines: Any) -> None:
    evt("workspace.online", {"b": 1, "a": "ü\n\u2028"})
    assert lines() == ['evt: workspace.online {"a": "\\u00fc\\n\\u2028", "b": 1}']


def test_a_line_without_fields_ends_with_an_empty_object(lines: Any) -> None:
    evt("boot")
    assert lines() == ["evt: boot {}"]


class Mean(dict[str, Any]):
    def __bool__(self) -> bool:
        raise RuntimeError("not even that")


def nested() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["self"] = inner
    return inner


@pytest.mark.parametrize(
    "fields",
    [{"x": object()}, {"x": float("nan")}, {1: "a", "b": 2}, nested(), Mean()],
    ids=["object", "nan", "mixed keys", "cycle", "raises"],
)
def test_fields_that_cannot_be_written_never_raise(lines: Any, fields: Any) -> None:
    evt("odd", fields)
    (line,) = lines()
    assert set(json.loads(line.removeprefix("evt: odd "))) == {"_marshal_err"}
