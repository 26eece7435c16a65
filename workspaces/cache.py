"""The workspace keys in Valkey: a cache for reads, never the truth. Errors are logged and ignored.

Source: docs/reference/workspaces.md, Cache keys.
"""

from __future__ import annotations

from uuid import UUID

import redis
import structlog

from config.valkey import client

log = structlog.get_logger(__name__)

ALIVE_S = 180
URL_S = 300


def alive_key(workspace_id: UUID) -> str:
    return f"ws:{workspace_id}"


def forget(*workspace_ids: UUID) -> None:
    """Drop every key of the workspaces: their address or their life has changed."""
    keys = [
        f"ws:{one}{suffix}" for one in workspace_ids for suffix in ("", ":url", ":internal_url", ":runtime")
    ]
    if keys:
        _try(lambda: client().delete(*keys))


def remember_url(workspace_id: UUID, url: str, internal_url: str | None = None) -> None:
    def write() -> None:
        pipeline = client().pipeline(transaction=False)
        pipeline.set(f"ws:{workspace_id}:url", url, ex=URL_S)
        pipeline.set(f"ws:{workspace_id}:internal_url", internal_url or url, ex=URL_S)
        pipeline.execute()

    _try(write)


def mark_alive(workspace_id: UUID) -> None:
    """A full SET with TTL: renewing the TTL of an expired key would be a no-op."""
    _try(lambda: client().set(alive_key(workspace_id), "online", ex=ALIVE_S))


def _try(action: object) -> None:
    assert callable(action)
    try:
        action()
    except redis.RedisError as error:
        log.warning("cache.unavailable", error=str(error))
