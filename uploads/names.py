"""The name a file is stored under, whatever its sender calls it. `agent/names.py` does the same; one table of
cases holds both.

Source: docs/reference/uploads.md, Names.
"""

from __future__ import annotations

import re

from uploads.limits import MAX_FILENAME

EXTENSION = 16  # characters of a kept extension, its dot included
UNNAMED = "file"
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]")


def sanitised(name: str) -> str:
    """ASCII letters, digits, `.`, `_` and `-`, 1 to 100 characters, never `.` or `..`; applying it twice
    changes nothing.

    `name` is the filename parameter as it came; each byte that is no UTF-8 is one character in it.
    """
    clean = _FOREIGN.sub("_", name.rpartition("/")[2])
    if len(clean) > MAX_FILENAME:
        _, dot, tail = clean.rpartition(".")
        extension = dot + tail if dot and len(tail) < EXTENSION else ""
        clean = clean[: MAX_FILENAME - len(extension)] + extension
    return UNNAMED if clean in {"", ".", ".."} else clean
