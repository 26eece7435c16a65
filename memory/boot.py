"""What the log says of memory when the server starts. Source: docs/reference/memory.md, Modes."""

from __future__ import annotations

import structlog
from django.conf import settings

from memory import config
from memory.backends.http import HttpBackend
from memory_store.contract import StoreError

log = structlog.get_logger(__name__)

PROBE_S = 5.0


def tell() -> None:
    """Name what is half switched on, and ask the plugin once how it is: its answer changes nothing."""
    if half := config.half_set():
        log.warning("memory.half_configured", detail=half)
    if not config.is_wired() or config.is_in_process():
        return
    plugin = HttpBackend(settings.MEMORY_PLUGIN_URL, token=settings.MEMORY_PLUGIN_TOKEN, timeout_s=PROBE_S)
    try:
        known = plugin.ask()
    except StoreError as error:
        cutover = " while MEMORY_V2_CUTOVER=true" if settings.MEMORY_V2_CUTOVER else ""
        log.warning(f"memory-plugin: probe failed{cutover}", reason=error.message)
    else:
        log.info(f"memory-plugin: ok, capabilities={','.join(sorted(known))}")
