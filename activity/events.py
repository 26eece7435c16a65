"""Structure events: the names, who may see them, and the two ways to emit one.

`record` writes the row in the caller's transaction and publishes on commit; `broadcast` only publishes on
commit.
Every frame goes to one Valkey channel, which each realtime process reads once (activity/hub.py).
Source: docs/reference/events.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import redis
import structlog
from django.db import transaction
from django.utils import timezone
from redis.client import Pipeline

from activity.counters import count
from activity.models import StructureEvent
from activity.redaction import storable
from config.http import rfc3339, to_json
from config.valkey import client

log = structlog.get_logger(__name__)

CHANNEL = "events:broadcast"


class EventType(StrEnum):
    WORKSPACE_PROVISIONING = "WORKSPACE_PROVISIONING"
    WORKSPACE_PROVISION_FAILED = "WORKSPACE_PROVISION_FAILED"
    WORKSPACE_RESTART_DECLINED = "WORKSPACE_RESTART_DECLINED"
    WORKSPACE_ONLINE = "WORKSPACE_ONLINE"
    WORKSPACE_OFFLINE = "WORKSPACE_OFFLINE"
    WORKSPACE_DEGRADED = "WORKSPACE_DEGRADED"
    WORKSPACE_HIBERNATED = "WORKSPACE_HIBERNATED"
    WORKSPACE_PAUSED = "WORKSPACE_PAUSED"
    WORKSPACE_AWAITING_AGENT = "WORKSPACE_AWAITING_AGENT"
    WORKSPACE_REMOVED = "WORKSPACE_REMOVED"
    WORKSPACE_MOVED = "WORKSPACE_MOVED"
    WORKSPACE_HEARTBEAT = "WORKSPACE_HEARTBEAT"
    TASK_UPDATED = "TASK_UPDATED"
    AGENT_ASSIGNED = "AGENT_ASSIGNED"
    AGENT_REPLACED = "AGENT_REPLACED"
    AGENT_REMOVED = "AGENT_REMOVED"
    AGENT_MOVED = "AGENT_MOVED"
    AGENT_MESSAGE = "AGENT_MESSAGE"
    A2A_RESPONSE = "A2A_RESPONSE"
    ACTIVITY_LOGGED = "ACTIVITY_LOGGED"


# Delivered to other workspaces' sockets, when they may communicate; the rest only to the workspace's own
# and the canvas.
SEEN_BY_PEERS = frozenset(
    {
        EventType.WORKSPACE_PROVISIONING,
        EventType.WORKSPACE_PROVISION_FAILED,
        EventType.WORKSPACE_ONLINE,
        EventType.WORKSPACE_OFFLINE,
        EventType.WORKSPACE_DEGRADED,
        EventType.WORKSPACE_HIBERNATED,
        EventType.WORKSPACE_PAUSED,
        EventType.WORKSPACE_AWAITING_AGENT,
        EventType.WORKSPACE_REMOVED,
        EventType.WORKSPACE_MOVED,
        EventType.TASK_UPDATED,
        EventType.AGENT_ASSIGNED,
        EventType.AGENT_REPLACED,
        EventType.AGENT_REMOVED,
        EventType.AGENT_MOVED,
    }
)


@dataclass(frozen=True)
class Frame:
    """What a socket receives: `{"event", "workspace_id", "timestamp", "payload"}`."""

    event: EventType
    workspace_id: UUID | None
    timestamp: datetime
    payload: Mapping[str, Any]

    def encoded(self) -> bytes:
        return to_json(
            {
                "event": self.event,
                "workspace_id": str(self.workspace_id or ""),
                "timestamp": rfc3339(self.timestamp),
                "payload": self.payload,
            }
        )


def record(event: EventType, workspace_id: UUID | None, payload: Mapping[str, Any]) -> StructureEvent:
    """Insert the event with the caller's change and publish it once that has committed."""
    row = StructureEvent.objects.create(
        event_type=event,
        workspace_id=workspace_id,
        payload=storable(dict(payload)),
        created_at=timezone.now(),
    )
    publish_on_commit(Frame(event, workspace_id, row.created_at, row.payload))
    return row


def broadcast(
    event: EventType, workspace_id: UUID, payload: Mapping[str, Any], *, timestamp: datetime | None = None
) -> None:
    """Publish on commit, without a row."""
    publish_on_commit(Frame(event, workspace_id, timestamp or timezone.now(), storable(dict(payload))))


def publish_on_commit(*frames: Frame) -> None:
    transaction.on_commit(lambda: publish(*frames), robust=True)


def publish(*frames: Frame, also: Callable[[Pipeline], object] | None = None) -> None:
    """Send the frames in order, in one round trip; `also` adds commands of its own to that trip.

    A failure is counted, never raised: REST has what a frame tells.
    """
    try:
        pipeline = client().pipeline(transaction=False)
        if also is not None:
            also(pipeline)
        for frame in frames:
            pipeline.publish(CHANNEL, frame.encoded())
        pipeline.execute()
    except redis.RedisError as error:
        log.warning("event.publish_failed", events=[frame.event for frame in frames], error=str(error))
        count("molecule_event_publish_failures_total", len(frames))
