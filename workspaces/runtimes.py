"""Which runtimes this deployment has: those of its manifest, else the built-in ones.

Source: docs/reference/templates.md, Runtimes.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings

log = structlog.get_logger(__name__)

BUILT_IN = frozenset(
    {
        "claude-code",
        "hermes",
        "openclaw",
        "codex",
        "langgraph",
        "crewai",
        "autogen",
        "deepagents",
        "gemini-cli",
    }
)
_PLACES = ("/app/manifest.json", "manifest.json", "../manifest.json", "../../manifest.json")
_VARIANT = "-default"


def registered_runtimes() -> frozenset[str]:
    """The names of the manifest's workspace templates, read anew when the file has changed."""
    given = settings.WORKSPACE_MANIFEST_PATH
    for place in [given] if given else _PLACES:
        try:
            stat = os.stat(place)
        except (OSError, ValueError):
            continue
        return _read(place, stat.st_mtime_ns, stat.st_size)
    if given:
        return _read(given, 0, 0)  # warns once
    return BUILT_IN


@lru_cache(maxsize=4)
def _read(place: str, changed_at: int, size: int) -> frozenset[str]:
    try:
        found = _names(json.loads(Path(place).read_bytes()))
        if found:
            return found
        log.warning("manifest.names_no_runtime", place=place)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("manifest.unreadable", place=place, error=str(error))
    return BUILT_IN


def _names(manifest: Any) -> frozenset[str]:
    entries = manifest["workspace_templates"]
    named = [str(entry["name"]).strip().replace("_", "-").removesuffix(_VARIANT) for entry in entries]
    return frozenset(name for name in named if name)
