"""What a person at the terminal is told, in one sentence."""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot start; the text is one sentence that says what to do."""


class StartFailed(StackError):
    """A service or a step ended, or was not ready in time; `tail` is the last it printed."""

    def __init__(self, sentence: str, tail: list[str]) -> None:
        super().__init__(sentence)
        self.tail = tail
