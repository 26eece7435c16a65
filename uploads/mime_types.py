"""Media types as stored and sent: nothing that could break out of a header. Source:
docs/reference/uploads.md, Types.
"""

from __future__ import annotations

import re

FALLBACK = "application/octet-stream"
_HALF = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
_TYPE = re.compile(rf"{_HALF}/{_HALF}")


def sanitised(given: str) -> str:
    """`type/subtype` in lower case, without parameters; "" when none was given."""
    bare = given.partition(";")[0].strip(" \t")
    if not bare:
        return ""
    if not all("!" <= character <= "~" for character in bare):
        return FALLBACK
    lowered = bare.lower()
    return lowered if _TYPE.fullmatch(lowered) else FALLBACK
