"""Text that leaves the server in a live frame: without credentials, without what the database cannot
store.
"""

from __future__ import annotations

import re
from typing import Any

_SECRETS = re.compile(
    r"(?i)((?:bearer|token|api[ _-]?key)[\"'\s:=]+)[A-Za-z0-9_\-.~+/]{12,}=*"
    r"|\b(sk-)[A-Za-z0-9_\-]{8,}"
    r"|\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+"
)
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


def scrubbed(text: str, *, limit: int = 4096) -> str:
    """Long values after bearer, token, API key or `sk-`, and bare JWTs become `[REDACTED]`; cut to `limit`
    characters.
    """
    return _SECRETS.sub(lambda match: f"{match[1] or match[2] or ''}[REDACTED]", text)[:limit]


def storable(value: Any) -> Any:
    """The value with NUL and lone surrogates replaced: PostgreSQL stores neither, and a lost row is worse."""
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value.replace("\x00", "\ufffd"))
        case dict():
            return {storable(str(key)): storable(item) for key, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
    return value
