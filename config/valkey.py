"""Connections to Valkey: fan-out and caches. Everything in it may be lost; callers go on without it."""

from __future__ import annotations

from functools import cache

import redis
from django.conf import settings

TIMEOUT_S = 2.0  # a request never waits longer for a cache


@cache
def client() -> redis.Redis:
    """The pooled client of this process. Calls raise redis.RedisError when Valkey is away."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        health_check_interval=30,
        client_name="workspace-server",
    )
