"""What no text of a request may hold."""

from __future__ import annotations

from typing import Any


def holds_nul(value: Any) -> bool:
    """Whether any text in a JSON value holds NUL, which PostgreSQL cannot store. Walks without recursion."""
    level = [value]
    while level:
        if any(isinstance(one, str) and "\x00" in one for one in level):
            return True
        parts = [one for one in level if isinstance(one, dict | list)]
        level = [item for one in parts for item in one]
        level += [item for one in parts if isinstance(one, dict) for item in one.values()]
    return False
