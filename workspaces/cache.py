"""The workspace keys in Valkey: a cache for reads, never the truth. Errors are logged and ignored.

Source: docs/reference/registry.md, Cache keys.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import redis
import structlog

from config.valkey import client

log = structlog.get_logger(__name__)

ALIVE_S = 180
URL_S = 300
SLOT_S = 86_400


def alive_key(workspace_id: UUID) -> str:
    return f"ws:{workspace_id}"


def url_key(workspace_id: UUID) -> str:
    return f"ws:{workspace_id}:url"


def internal_url_key(workspace_id: UUID) -> str:
    return f"ws:{workspace_id}:internal_url"


def runtime_key(workspace_id: UUID) -> str:
    """What the agent's last full heartbeat declared about its runtime."""
    return f"ws:{workspace_id}:runtime"


def slot_key(workspace_id: UUID) -> str:
    """There while something waits for the workspace to have a hand free."""
    return f"ws:{workspace_id}:slot"


def forget(*workspace_ids: UUID) -> None:
    """Drop every key of the workspaces: their address or their life has changed."""
    names = (alive_key, url_key, internal_url_key, runtime_key)
    keys = [name(one) for one in workspace_ids for name in names]
    if keys:
        _try(lambda: client().delete(*keys))


def remember_url(workspace_id: UUID, url: str, internal_url: str | None = None) -> None:
    def write() -> None:
        pipeline = client().pipeline(transaction=False)
        _set_addresses(pipeline, workspace_id, url, internal_url or url)
        pipeline.execute()

    _try(write)


def remember_internal_url(workspace_id: UUID, internal_url: str) -> None:
    _try(lambda: client().set(internal_url_key(workspace_id), internal_url, ex=URL_S))


def internal_url(workspace_id: UUID) -> str | None:
    """Where other agents reach the workspace, as last cached; None when it must be asked for."""
    try:
        stored = client().get(internal_url_key(workspace_id))
    except redis.RedisError as error:
        log.warning("cache.unavailable", error=str(error))
        return None
    return stored.decode() if isinstance(stored, bytes) else None


def remember_contact(workspace_id: UUID, url: str, internal_url: str) -> None:
    """An agent has registered: it lives, at these addresses ('' for none), and has declared nothing yet."""

    def write() -> None:
        pipeline = client().pipeline(transaction=False)
        # A full SET with TTL: renewing the TTL of an expired key would be a no-op.
        pipeline.set(alive_key(workspace_id), "online", ex=ALIVE_S)
        pipeline.delete(runtime_key(workspace_id))
        _set_addresses(pipeline, workspace_id, url, internal_url)
        pipeline.execute()

    _try(write)


def ask_for_slot(workspace_id: UUID) -> None:
    """Let the workspace's next heartbeat tell of its free slot; a lost wish is made up for by a sweep."""
    _try(lambda: client().set(slot_key(workspace_id), "1", ex=SLOT_S))


def _set_addresses(pipeline: Any, workspace_id: UUID, url: str, internal_url: str) -> None:
    for key, address in ((url_key(workspace_id), url), (internal_url_key(workspace_id), internal_url)):
        if address:
            pipeline.set(key, address, ex=URL_S)
        else:
            pipeline.delete(key)


def _try(action: object) -> None:
    assert callable(action)
    try:
        action()
    except redis.RedisError as error:
        log.warning("cache.unavailable", error=str(error))
