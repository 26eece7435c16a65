"""The report: JSON for machines, a Markdown table for documents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from bench.measurement import Measurement

COLUMNS = {"per_s": "per s", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "max_ms": "max ms", "count": "count"}
OTHERS = {"errors": "errors", "bytes": "bytes each"}


def as_json(
    machine: Mapping[str, str], settings: Mapping[str, Any], results: Mapping[str, Sequence[Measurement]]
) -> bytes:
    """`{"machine", "settings", "scenarios": {name: [{"label", "figures", "problems", ...}]}}`."""
    scenarios = {
        name: [
            {
                "label": row.label,
                "figures": {key: _plain(value) for key, value in row.figures.items()},
                "problems": list(row.problems),
                "remarks": list(row.remarks),
                **({"runs_per_s": list(row.runs)} if row.runs else {}),
            }
            for row in rows
        ]
        for name, rows in results.items()
    }
    document = {"machine": dict(machine), "settings": dict(settings), "scenarios": scenarios}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def as_markdown(machine: Mapping[str, str], results: Mapping[str, Sequence[Measurement]]) -> str:
    """One line about the machine, then one row per measurement."""
    head = ["Scenario", "Measured", *COLUMNS.values(), "Remarks"]
    alignment = ["---", "---", *("---:" for _ in COLUMNS), "---"]
    lines = [
        ", ".join(f"{name}: {value}" for name, value in machine.items()),
        "",
        _row(head),
        _row(alignment),
    ]
    for name, rows in results.items():
        for row in rows:
            cells = [shown(row.figures[key]) if key in row.figures else "" for key in COLUMNS]
            lines.append(_row([name, row.label, *cells, "; ".join(_remarks(row))]))
    return "\n".join(lines) + "\n"


def failures(results: Mapping[str, Sequence[Measurement]]) -> list[str]:
    """Every problem with where it was met."""
    return [
        f"{name}, {row.label}: {problem}"
        for name, rows in results.items()
        for row in rows
        for problem in row.problems
    ]


def write(path: Path, document: bytes, table: str) -> Path:
    """Write the JSON to `path` and the table beside it; returns where the table is."""
    path.write_bytes(document)
    beside = path.with_suffix(".md")
    beside.write_text(table)
    return beside


def _remarks(row: Measurement) -> list[str]:
    named = {**{key: OTHERS.get(key, key.replace("_", " ")) for key in row.figures if key not in COLUMNS}}
    texts = [f"{text} {shown(row.figures[key])}" for key, text in named.items()]
    if row.runs:
        texts.append(f"{len(row.runs)} runs: {shown(min(row.runs))} to {shown(max(row.runs))} per s")
    return [*texts, *row.remarks, *(f"**{problem}**" for problem in row.problems)]


def shown(value: float) -> str:
    """Three digits that mean something: 1,734; 86.1; 9.17; 0.20."""
    if math.isnan(value):
        return "-"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
