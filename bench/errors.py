"""What a person at the terminal is told, in one sentence."""

from __future__ import annotations


class BenchError(Exception):
    """Nothing can be measured; the text says what to do."""
