"""The heartbeat: the hottest write of the product. Two statements and one trip to Valkey when nothing
changes.

The row is read together with its credential; one pure function decides; one conditional write repeats what
was read, so a lost race is noticed and decided again. Source: docs/reference/registry.md, Heartbeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import redis
import structlog
from django.db import connection, transaction
from django.utils import timezone
from redis.client import Pipeline

from access.ciphers import CannotUnseal, unseal_text
from access.credentials import workspace_bucket
from access.rate_limits import Meter
from activity import events
from activity.events import EventType, Frame, record
from config.errors import Unavailable, failing_as
from config.valkey import client
from workspaces import hooks
from workspaces.cache import ALIVE_S, alive_key, runtime_key, slot_key
from workspaces.cards import completed, without_forbidden_url
from workspaces.models import ALIVE, DORMANT, EXTERNAL, Status, Workspace
from workspaces.services.beats import Beat, beating_workspace, parse_beat
from workspaces.services.inbound_secrets import belonging_to, deliverable_secret
from workspaces.services.moves import move
from workspaces.services.registrant import Registrant, identify

log = structlog.get_logger(__name__)

DEGRADED_FROM = 0.5
RECOVERED_BELOW = 0.1
RUNTIME_KEY_S = 86_400
RACES = 5

_WRITE = """
WITH was AS (SELECT id, coalesce(current_task, '') AS task FROM workspaces
             WHERE id = %(id)s AND status = %(status)s AND generation = %(generation)s FOR UPDATE)
UPDATE workspaces w SET last_heartbeat_at = now(), updated_at = now(),
    active_tasks = coalesce(%(active_tasks)s, w.active_tasks),
    idle_since = CASE WHEN coalesce(%(active_tasks)s, w.active_tasks) > 0 THEN NULL
                      WHEN w.active_tasks > 0 THEN now() ELSE coalesce(w.idle_since, now()) END,
    current_task = coalesce(%(current_task)s, w.current_task),
    uptime_seconds = coalesce(%(uptime_seconds)s, w.uptime_seconds),
    last_error_rate = coalesce(%(error_rate)s, w.last_error_rate),
    last_sample_error = coalesce(nullif(%(sample_error)s, ''), w.last_sample_error),
    monthly_spend = coalesce(%(monthly_spend)s, w.monthly_spend),
    spend_month = CASE WHEN %(monthly_spend)s::bigint IS NULL THEN w.spend_month
                       ELSE date_trunc('month', now() AT TIME ZONE 'utc')::date END,
    agent_card = coalesce(w.agent_card, %(agent_card)s::jsonb)
FROM was WHERE w.id = was.id
RETURNING was.task, coalesce(w.current_task, ''), w.active_tasks, w.uptime_seconds, w.max_concurrent_tasks
"""

_TOUCH = """
UPDATE workspaces SET last_heartbeat_at = now() WHERE id = %(id)s AND status = %(status)s RETURNING id
"""


def next_status(registrant: Registrant, beat: Beat, *, manages_itself: bool) -> Status:
    """The status after this beat.

    Pure; `manages_itself`: the runtime declared that it judges error rates itself.
    """
    status = Status(registrant.status)
    if may_come_online(registrant):
        return Status.ONLINE
    if beat.is_task_push:
        return status
    if status == Status.ONLINE:
        rate_is_bad = not manages_itself and beat.error_rate is not None and beat.error_rate >= DEGRADED_FROM
        return Status.DEGRADED if beat.runtime_state == "wedged" or rate_is_bad else status
    if status == Status.DEGRADED and not manages_itself and not beat.runtime_state:
        recovered = beat.error_rate is not None and beat.error_rate < RECOVERED_BELOW
        return Status.ONLINE if recovered else status
    return status


def may_come_online(registrant: Registrant) -> bool:
    """Whether this caller lifts the row to online: never a parked one,
    never with a credential of older compute.
    """
    if registrant.status not in {Status.PROVISIONING, Status.OFFLINE, Status.AWAITING_AGENT, Status.FAILED}:
        return False
    fenced = registrant.runtime != EXTERNAL and registrant.status in {Status.PROVISIONING, Status.FAILED}
    return not fenced or registrant.token_generation in {None, registrant.generation}


@dataclass(frozen=True)
class Stored:
    """What the write left: for the events of this beat."""

    task_before: str
    task: str
    active_tasks: int
    uptime_seconds: int
    max_concurrent_tasks: int


def heartbeat(body: Mapping[str, Any], authorization: str | None, meter: Meter) -> dict[str, Any]:
    """Record one beat and return the answer. Raises BadRequest, NotFound, Unauthorized, Unavailable, and
    TooManyRequests: before anything is done when the caller's window is known to be full.
    """
    workspace_id = beating_workspace(body)
    beat = parse_beat(body)
    for _ in range(RACES):
        registrant = identify(workspace_id, authorization, removed_is_unauthorized=True)
        meter.identified(workspace_bucket(registrant.token_id) if registrant.token_id else "")
        if registrant.status in DORMANT:
            if _touch(registrant):
                return _answer(registrant)
            continue
        target = next_status(registrant, beat, manages_itself=_manages_itself(registrant, beat))
        card = _first_card(registrant, beat)
        with failing_as("failed to update"):
            stored = _store(registrant, beat, target, card)
        if stored is not None:
            has_room = target in ALIVE and stored.active_tasks < stored.max_concurrent_tasks
            if _publish(registrant, beat, stored, meter, has_room=has_room):
                for hook in hooks.has_free_slot:
                    hook(workspace_id)
            return _answer(registrant)
    raise Unavailable("workspace is changing; send the next heartbeat")


def _manages_itself(registrant: Registrant, beat: Beat) -> bool:
    """The declared capability: of this beat, else as last reported. Asked only where it decides."""
    if beat.declared is not None:
        return beat.declared.capabilities.get("status_mgmt") is True
    decides = (registrant.status == Status.ONLINE and (beat.error_rate or 0) >= DEGRADED_FROM) or (
        registrant.status == Status.DEGRADED and (beat.error_rate or 0) < RECOVERED_BELOW
    )
    if not decides or beat.clears_declared:
        return False
    try:
        stored = client().get(runtime_key(registrant.workspace_id))
    except redis.RedisError:
        return False
    known = orjson.loads(stored) if isinstance(stored, bytes) else {}
    return (known.get("capabilities") or {}).get("status_mgmt") is True


def _first_card(registrant: Registrant, beat: Beat) -> dict[str, Any] | None:
    """The card to keep of an agent whose registration got lost; a stored one is never replaced."""
    if beat.agent_card is None or not registrant.lacks_card:
        return None
    found = Workspace.objects.filter(pk=registrant.workspace_id).values_list("name", "role").first()
    if found is None:
        return None
    card = completed(beat.agent_card, workspace_id=registrant.workspace_id, name=found[0], role=found[1])
    return without_forbidden_url(card)


def _touch(registrant: Registrant) -> bool:
    with failing_as("failed to update"), connection.cursor() as cursor:
        cursor.execute(_TOUCH, {"id": registrant.workspace_id, "status": registrant.status})
        return bool(cursor.rowcount == 1)


def _store(
    registrant: Registrant, beat: Beat, target: Status, card: Mapping[str, Any] | None
) -> Stored | None:
    """One write; a change of status first, with its event in the same transaction.

    None: the row changed meanwhile.
    """
    if target == registrant.status:
        return _write(registrant, beat, target, card)
    with transaction.atomic():
        rows = Workspace.objects.at(registrant.workspace_id, registrant.generation)
        healed = {"last_sample_error": None} if target == Status.ONLINE else {}
        if not move(rows.filter(status=registrant.status), target, trigger="heartbeat", **healed):
            return None
        stored = _write(registrant, beat, target, card)
        event, payload = _status_event(registrant, beat, target)
        record(event, registrant.workspace_id, payload)
        if target == Status.ONLINE:
            announce_online(registrant.workspace_id, registrant.generation, came_from=registrant.status)
    return stored


def announce_online(workspace_id: UUID, generation: int, *, came_from: str) -> None:
    """Tell higher rooms that a start has ended well."""
    if came_from in {Status.PROVISIONING, Status.FAILED}:
        for hook in hooks.came_online:
            hook(workspace_id, generation)


def _write(
    registrant: Registrant, beat: Beat, status: Status, card: Mapping[str, Any] | None
) -> Stored | None:
    full = not beat.is_task_push
    values: dict[str, Any] = {
        "id": registrant.workspace_id,
        "status": status,
        "generation": registrant.generation,
        "active_tasks": beat.active_tasks,
        "current_task": beat.current_task,
        "uptime_seconds": beat.uptime_seconds if full else None,
        "error_rate": beat.error_rate if full else None,
        "sample_error": beat.sample_error if full else None,
        "monthly_spend": beat.monthly_spend,
        "agent_card": orjson.dumps(card).decode() if card else None,
    }
    with connection.cursor() as cursor:
        cursor.execute(_WRITE, values)
        row = cursor.fetchone()
    return Stored(*row) if row else None


def _status_event(registrant: Registrant, beat: Beat, target: Status) -> tuple[EventType, dict[str, Any]]:
    if target == Status.DEGRADED and beat.runtime_state == "wedged":
        return EventType.WORKSPACE_DEGRADED, {
            "runtime_state": "wedged",
            "sample_error": beat.sample_error or "",
        }
    if target == Status.DEGRADED:
        payload = {"error_rate": beat.error_rate, "sample_error": beat.sample_error or ""}
        return EventType.WORKSPACE_DEGRADED, payload
    recovered = registrant.status in {Status.DEGRADED, Status.OFFLINE}
    return EventType.WORKSPACE_ONLINE, {} if recovered else {"recovered_from": registrant.status}


def _publish(registrant: Registrant, beat: Beat, stored: Stored, meter: Meter, *, has_room: bool) -> bool:
    """One pipelined trip: the caller's charge, liveness key, declared capabilities, live frames.

    Whether something waits for the free slot: each wish is read once.
    """
    now = timezone.now()
    pulse = {"active_tasks": stored.active_tasks, "uptime_seconds": stored.uptime_seconds}
    frames = [Frame(EventType.WORKSPACE_HEARTBEAT, registrant.workspace_id, now, pulse)]
    if stored.task != stored.task_before:
        changed = {"current_task": stored.task, "active_tasks": stored.active_tasks}
        frames.insert(0, Frame(EventType.TASK_UPDATED, registrant.workspace_id, now, changed))

    slot_reply = 0

    def remember(pipeline: Pipeline) -> None:
        nonlocal slot_reply
        meter.add_to(pipeline)
        pipeline.set(alive_key(registrant.workspace_id), "online", ex=ALIVE_S)
        if beat.declared is not None:
            kept = orjson.dumps(vars(beat.declared))
            pipeline.set(runtime_key(registrant.workspace_id), kept, ex=RUNTIME_KEY_S)
        elif beat.clears_declared and not beat.is_task_push:
            pipeline.delete(runtime_key(registrant.workspace_id))
        if has_room:
            slot_reply = len(pipeline)
            pipeline.getdel(slot_key(registrant.workspace_id))

    replies = events.publish(*frames, also=remember)
    meter.settle(replies)
    return has_room and replies is not None and replies[slot_reply] is not None


def _answer(registrant: Registrant) -> dict[str, Any]:
    """The secret goes only to a caller that proved itself by a token."""
    answer: dict[str, Any] = {"status": "ok"}
    if registrant.token_id is not None and (secret := _secret(registrant)):
        answer["platform_inbound_secret"] = secret
    return answer


def _secret(registrant: Registrant) -> str | None:
    if registrant.sealed_secret:
        try:
            return unseal_text(registrant.sealed_secret, belonging_to(registrant.workspace_id))
        except CannotUnseal:
            log.error("inbound_secret.unreadable", workspace_id=str(registrant.workspace_id))
    return deliverable_secret(registrant.workspace_id)
