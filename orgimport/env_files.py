"""`.env` files of a template and the variables in its values. Their contents reach secrets and nothing else.

Source: docs/reference/orgimport.md, Variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from access.secret_names import KEY, MAX_VALUE_BYTES, RESERVED_KEYS

ENV_FILE = ".env"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")


def parse(text: str) -> tuple[dict[str, str], list[str]]:
    """The pairs of an env file, and what is wrong with it in words that name lines and keys, never values."""
    pairs: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        key, separator, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if line.lstrip().startswith("#") or not separator:
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        if not key or not value:
            continue
        if complaint := _complaint(key, value):
            problems.append(f"line {number} {complaint}")
        else:
            pairs[key] = value
    return pairs, problems


def expand(text: str, variables: Mapping[str, str]) -> tuple[str, list[str]]:
    """`text` with its variables replaced, and the names that have no value: those stay as they are."""
    missing: list[str] = []

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not variables.get(name):
            missing.append(name)
            return found[0]
        return variables[name]

    return _VARIABLE.sub(value, text), missing


def unresolved(text: str, variables: Mapping[str, str]) -> tuple[str, list[str]]:
    """`text` with its variables replaced, and the placeholders as they were written when one has no value, or
    when the result still holds one.
    """
    value, missing = expand(text, variables)
    written = [found[0] for found in _VARIABLE.finditer(text)]
    if written and (missing or not value.strip() or _VARIABLE.search(value)):
        return value, [one for one in written if one.strip("${}") in missing] or written
    return value, []


def _complaint(key: str, value: str) -> str:
    if not KEY.fullmatch(key):
        return "has a key that is no variable name"
    if key in RESERVED_KEYS:
        return f"sets the reserved variable {key}"
    if "\x00" in value or len(value.encode()) > MAX_VALUE_BYTES:
        return f"has a value for {key} that cannot be stored"
    return ""
