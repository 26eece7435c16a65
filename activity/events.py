"""Structure events: the names, who may see them, and the three ways to emit one.

`record` writes the row in the caller's transaction and publishes on commit; `broadcast` only publishes on
commit; `log_event` only writes. Every frame goes to one Valkey channel, which each realtime process reads
once (activity/hub.py). Source: docs/reference/events.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
from activity.tally import tally
from config.http import rfc3339, to_json
from config.valkey import client

log = structlog.get_logger(__name__)

CHANNEL = "events:broadcast"
FRAME_BODY_BYTES = 64 * 1024
SIGN_S = 7200  # longer than anybody waits for an agent
_BODIES = frozenset({"request_body", "response_body", "tool_trace"})


class EventType(StrEnum):
    """Every event there is: the table of docs/reference/events.md, names, modes and payloads."""

    WORKSPACE_PROVISIONING = "WORKSPACE_PROVISIONING"
    WORKSPACE_PROVISION_FAILED = "WORKSPACE_PROVISION_FAILED"
    WORKSPACE_RESTART_DECLINED = "WORKSPACE_RESTART_DECLINED"
    WORKSPACE_PROVISION_PROGRESS = "WORKSPACE_PROVISION_PROGRESS"
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
    AGENT_CARD_UPDATED = "AGENT_CARD_UPDATED"
    AGENT_ASSIGNED = "AGENT_ASSIGNED"
    AGENT_REPLACED = "AGENT_REPLACED"
    AGENT_REMOVED = "AGENT_REMOVED"
    AGENT_MOVED = "AGENT_MOVED"
    AGENT_MESSAGE = "AGENT_MESSAGE"
    A2A_RESPONSE = "A2A_RESPONSE"
    ACTIVITY_LOGGED = "ACTIVITY_LOGGED"
    CHANNEL_MESSAGE = "CHANNEL_MESSAGE"
    DELEGATION_SENT = "DELEGATION_SENT"
    DELEGATION_STATUS = "DELEGATION_STATUS"
    DELEGATION_COMPLETE = "DELEGATION_COMPLETE"
    DELEGATION_FAILED = "DELEGATION_FAILED"
    CRON_EXECUTED = "CRON_EXECUTED"
    CRON_SKIPPED = "CRON_SKIPPED"
    CRON_QUEUED = "CRON_QUEUED"
    APPROVAL_REQUESTED = "APPROVAL_REQUESTED"
    APPROVAL_ESCALATED = "APPROVAL_ESCALATED"
    APPROVAL_APPROVED = "APPROVAL_APPROVED"
    APPROVAL_DENIED = "APPROVAL_DENIED"
    APPROVAL_DECIDED = "APPROVAL_DECIDED"
    APPROVAL_WITHDRAWN = "APPROVAL_WITHDRAWN"
    EXTERNAL_CREDENTIALS_ROTATED = "EXTERNAL_CREDENTIALS_ROTATED"
    ORG_IMPORT_STARTED = "org.import.started"
    ORG_IMPORT_COMPLETED = "org.import.completed"
    ORG_IMPORT_FAILED = "org.import.failed"


# Delivered to other workspaces' sockets, when they may communicate; the rest only to the workspace's own
# and the canvas: siblings must not receive each other's conversations.
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
        EventType.AGENT_CARD_UPDATED,
        EventType.AGENT_ASSIGNED,
        EventType.AGENT_REPLACED,
        EventType.AGENT_REMOVED,
        EventType.AGENT_MOVED,
    }
)

# Called with the frames that could not be published: sockets of the same process get them anyway.
undelivered: list[Callable[[Sequence[Frame]], None]] = []


@dataclass(frozen=True)
class Frame:
    """What a socket receives: `{"event", "workspace_id", "timestamp", "payload"}`.

    `top` names keys of the payload that a client reads beside it. A body above 64 KiB becomes its size.
    """

    event: EventType
    workspace_id: UUID | None
    timestamp: datetime
    payload: Mapping[str, Any]
    top: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        payload = {key: _capped(value) if key in _BODIES else value for key, value in self.payload.items()}
        return to_json(
            {
                "event": self.event,
                "workspace_id": str(self.workspace_id or ""),
                "timestamp": rfc3339(self.timestamp),
                **{key: payload[key] for key in self.top},
                "payload": payload,
            }
        )


def _capped(body: Any) -> Any:
    size = len(to_json(body))
    return body if size <= FRAME_BODY_BYTES else {"truncated": True, "bytes": size}


def record(event: EventType, workspace_id: UUID | None, payload: Mapping[str, Any]) -> StructureEvent:
    """Insert the event with the caller's change and publish it once that has committed."""
    row = unstored(event, workspace_id, payload)
    row.save(force_insert=True)
    publish_recorded(row)
    return row


def record_all(events: Sequence[tuple[EventType, UUID, Mapping[str, Any]]]) -> None:
    """`record` for many events in this order, in one statement and one trip."""
    rows = [unstored(event, workspace_id, payload) for event, workspace_id, payload in events]
    StructureEvent.objects.bulk_create(rows)
    if rows:
        publish_recorded(*rows)


def log_event(event: EventType, payload: Mapping[str, Any]) -> StructureEvent:
    """Insert an event of the deployment, which is about no workspace and is shown to nobody live."""
    row = unstored(event, None, payload)
    row.save(force_insert=True)
    return row


def unstored(event: EventType, workspace_id: UUID | None, payload: Mapping[str, Any]) -> StructureEvent:
    """The row of an event, for whoever inserts it together with other rows."""
    clean = storable(dict(payload))
    return StructureEvent(
        event_type=event,
        workspace_id=workspace_id,
        agent_id=clean.get("agent_id"),
        target_id=clean.get("target_id"),
        payload=clean,
        created_at=timezone.now(),
    )


def publish_recorded(*rows: StructureEvent) -> None:
    """Publish events whose rows the running transaction has inserted, in one trip."""
    frames = []
    for row in rows:
        frames.append(Frame(EventType(row.event_type), row.workspace_id, row.created_at, row.payload))
    publish_on_commit(*frames)


def broadcast(
    event: EventType,
    workspace_id: UUID,
    payload: Mapping[str, Any],
    *,
    timestamp: datetime | None = None,
    top: tuple[str, ...] = (),
) -> None:
    """Publish on commit, without a row."""
    publish_on_commit(Frame(event, workspace_id, timestamp or timezone.now(), storable(dict(payload)), top))


def _stamp(pipeline: Pipeline, frames: Sequence[Frame]) -> None:
    """Note when something last happened to these workspaces: whoever waits for one of them, in whichever
    process, sees that it lives.
    """
    now = time.time()
    for one in {frame.workspace_id for frame in frames} - {None}:
        pipeline.set(sign_key(one), now, ex=SIGN_S)


def sign_key(workspace_id: UUID | None) -> str:
    return f"ws:{workspace_id}:sign"


def last_sign(workspace_id: UUID) -> float | None:
    """When something was last published about the workspace, as `time.time()`; None when nobody can tell."""
    try:
        stored = client().get(sign_key(workspace_id))
    except redis.RedisError:
        return None
    return float(stored) if isinstance(stored, bytes) else None


def publish_on_commit(*frames: Frame) -> None:
    transaction.on_commit(lambda: publish(*frames), robust=True)


def publish(*frames: Frame, also: Callable[[Pipeline], object] | None = None) -> list[Any] | None:
    """Send the frames in order, in one round trip; `also` adds commands of its own to that trip, and their
    replies are the first of those returned. None: Valkey could not be asked.

    A failure is counted, never raised: REST has what a frame tells, and sockets of this process get it.
    """
    try:
        pipeline = client().pipeline(transaction=False)
        if also is not None:
            also(pipeline)
        for frame in frames:
            pipeline.publish(CHANNEL, frame.encoded())
        _stamp(pipeline, frames)
        replies: list[Any] = pipeline.execute()
    except redis.RedisError as error:
        log.warning("event.publish_failed", events=[frame.event for frame in frames], error=str(error))
        for deliver in undelivered:
            deliver(frames)
        count("molecule_event_publish_failures_total", len(frames))
        return None
    for frame in frames:
        tally.add("molecule_events_published_total", event=frame.event)
    return replies
