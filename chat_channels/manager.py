"""Who listens to which provider: the enabled channels with their plain configuration, kept by each process.

No provider needs a standing connection, so nothing runs here: it is a look-up that is loaded again as soon
as a channel has changed anywhere, and after 10 s at the latest. Source: docs/reference/chat_channels.md,
Manager.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import redis
import structlog
from django.db import transaction

from access.ciphers import CannotUnseal
from chat_channels.adapters import ADAPTERS
from chat_channels.models import Channel
from chat_channels.sealing import plain_config
from config.valkey import client

log = structlog.get_logger(__name__)

VERSION_KEY = "channels:version"
MOST_AGE_S = 10.0


@dataclass(frozen=True)
class Listener:
    """An enabled channel; `config` is plain."""

    channel_id: UUID
    workspace_id: UUID
    channel_type: str
    config: Mapping[str, str] = field(repr=False)
    allowed_users: frozenset[str]


@dataclass(frozen=True)
class _Loaded:
    version: bytes
    at: float
    listeners: tuple[Listener, ...]


_loaded: dict[str, _Loaded] = {}
_lock = threading.Lock()


def listeners(channel_type: str) -> tuple[Listener, ...]:
    """The enabled channels of one provider, as they were stored a moment ago."""
    version = _version()
    with _lock:
        known = _loaded.get(channel_type)
    now = time.monotonic()
    if known is not None and known.version == version and now - known.at < MOST_AGE_S:
        return known.listeners
    found = tuple(_load(channel_type))
    if version is not None:  # without Valkey nobody could tell of a change
        with _lock:
            _loaded[channel_type] = _Loaded(version, now, found)
    return found


def reload_manager() -> None:
    """Every process loads the channels again, once this change has committed."""
    transaction.on_commit(_tell, robust=True)


def forget() -> None:
    with _lock:
        _loaded.clear()


def _tell() -> None:
    forget()
    try:
        client().set(VERSION_KEY, uuid4().hex)
    except redis.RedisError as error:
        log.warning("channels.change_not_told", error=type(error).__name__)


def _version() -> bytes | None:
    """What changes with every change; None when Valkey is away. Asked before the rows are read."""
    try:
        found = client().get(VERSION_KEY)
    except redis.RedisError:
        return None
    return found if isinstance(found, bytes) else b""


def _load(channel_type: str) -> list[Listener]:
    sensitive = ADAPTERS[channel_type].sensitive
    found = []
    for row in Channel.objects.listening().filter(channel_type=channel_type).order_by("created_at", "pk"):
        try:
            config = plain_config(row.channel_config, sensitive, row.workspace_id, channel_type)
        except CannotUnseal as error:  # the others go on
            log.error("channel.unreadable", channel_id=str(row.pk), cause=str(error))
            continue
        allowed = frozenset(row.allowed_users)
        found.append(Listener(row.pk, row.workspace_id, channel_type, config, allowed))
    return found
