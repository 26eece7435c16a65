"""The name a file is written under, whatever its sender calls it: docs/reference/uploads.md, Names."""

from __future__ import annotations

import re

MAX_CHARACTERS = 100
EXTENSION = 16  # characters of a kept extension, its dot included
UNNAMED = "file"
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]")


def sanitised(name: str) -> str:
    """ASCII letters, digits, `.`, `_` and `-`, 1 to 100 characters, never `.` or `..`."""
    clean = _FOREIGN.sub("_", name.rpartition("/")[2])
    if len(clean) > MAX_CHARACTERS:
        _, dot, tail = clean.rpartition(".")
        extension = dot + tail if dot and len(tail) < EXTENSION else ""
        clean = clean[: MAX_CHARACTERS - len(extension)] + extension
    return UNNAMED if clean in {"", ".", ".."} else clean
