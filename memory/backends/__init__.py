"""Where records are kept: in this database, or behind the plugin's address.

Source: docs/reference/memory.md, Stores.
"""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings

from config.errors import Unavailable
from memory.backends.base import Backend
from memory.backends.http import HttpBackend
from memory.backends.local import LocalBackend
from memory.config import NOT_CONFIGURED, is_in_process, is_wired

__all__ = ["Backend", "backend"]


def backend() -> Backend:
    """The store of records of this deployment. Raises Unavailable where there is none."""
    if not is_wired():
        raise Unavailable(NOT_CONFIGURED)
    if is_in_process():
        return _LOCAL
    return _plugin(settings.MEMORY_PLUGIN_URL, settings.MEMORY_PLUGIN_TOKEN, settings.MEMORY_PLUGIN_TIMEOUT)


@lru_cache(maxsize=8)
def _plugin(url: str, token: str, timeout_s: float) -> HttpBackend:
    """One client per process: its breaker and what it knows of the plugin are shared by all threads."""
    return HttpBackend(url, token=token, timeout_s=timeout_s)


_LOCAL = LocalBackend()
