"""Which store holds what: the one reading of the memory switches. Source: docs/reference/memory.md, Modes."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from django.conf import settings

NOT_CONFIGURED = "memory plugin is not configured (set MEMORY_PLUGIN_URL)"  # the canvas matches on it
IN_PROCESS = "inprocess"


def is_in_process() -> bool:
    return bool(settings.MEMORY_V2_BACKEND == IN_PROCESS)


def is_wired() -> bool:
    """There are namespaces and records."""
    return bool(settings.MEMORY_PLUGIN_URL) or is_in_process()


def is_primary() -> bool:
    """Scoped memories live in the records, on every surface; `agent_memories` stands still."""
    return is_wired() and bool(settings.MEMORY_V2_CUTOVER)


def is_sidecar_wanted() -> bool:
    """The plugin is to be started beside the server."""
    url = settings.MEMORY_PLUGIN_URL
    return (
        bool(settings.MEMORY_V2_CUTOVER or url)
        and not settings.MEMORY_PLUGIN_DISABLE
        and bool(settings.DATABASE_URL)
        and (not url or is_loopback(url))
        and not is_in_process()
    )


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def half_set() -> str:
    """What an operator has begun to switch on and not ended; empty when all is said."""
    if settings.MEMORY_V2_CUTOVER and not is_wired():
        return "MEMORY_V2_CUTOVER=true, but MEMORY_PLUGIN_URL is unset: memories stay in the first store"
    if is_wired() and not settings.MEMORY_V2_CUTOVER:
        return "records are served, and scoped memories stay in the first store: MEMORY_V2_CUTOVER is not set"
    return ""
