"""Counters that are right with any number of processes: rows in PostgreSQL, read by whichever process
answers /metrics.

Source: docs/reference/metrics.md.
"""

from __future__ import annotations

from django.db import connection

_ADD = """
INSERT INTO metric_counters (name, labels, value) VALUES (%s, %s, %s)
ON CONFLICT (name, labels) DO UPDATE SET value = metric_counters.value + EXCLUDED.value
"""


def count(name: str, amount: int = 1, /, **labels: str) -> None:
    """Add `amount` to one series. Inside a transaction it counts only if that commits."""
    add(name, label_text(labels), amount)


def add(name: str, labels: str, amount: int) -> None:
    """The same for a series whose label text is known."""
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [name, labels, amount])


def label_text(labels: dict[str, str]) -> str:
    """`key="value"` pairs sorted by key, values escaped:
    the text between the braces of the exposition format.
    """
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(labels.items()))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
