"""The heartbeat: the hottest write of the product. Two statements and one trip to Valkey when nothing
changes.

The row is read together with its credential; one pure function decides; one conditional write repeats what
was read,
so a lost race is noticed and decided again. Source: docs/reference/registry.md, Heartbeat.
"""

from __future__ import annotations

import math
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
from activity import events
from activity.events import EventType, Frame, record
from activity.redaction import storable
from config.errors import BadRequest, Conflict
from config.valkey import client
from workspaces import hooks
from workspaces.cache import ALIVE_S, alive_key
from workspaces.models import DORMANT, EXTERNAL, STATES, Status
from workspaces.services.inbound_secrets import inbound_secret
from workspaces.services.registrant import Registrant, identify

log = structlog.get_logger(__name__)

DEGRADED_FROM = 0.5
RECOVERED_BELOW = 0.1
ERROR_BYTES = 8192
TASK_CHARS = 4096
MAX_SPEND_CENTS = 1_000_000_000_000
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
    last_sample_error = CASE WHEN %(clears_error)s THEN NULL
                             ELSE coalesce(nullif(%(sample_error)s, ''), w.last_sample_error) END,
    monthly_spend = coalesce(%(monthly_spend)s, w.monthly_spend),
    spend_month = CASE WHEN %(monthly_spend)s::bigint IS NULL THEN w.spend_month
                       ELSE date_trunc('month', now() AT TIME ZONE 'utc')::date END,
    agent_card = coalesce(w.agent_card, %(agent_card)s::jsonb),
    status = %(next)s,
    status_changed_at = CASE WHEN w.status = %(next)s THEN w.status_changed_at ELSE now() END
FROM was WHERE w.id = was.id
RETURNING was.task, coalesce(w.current_task, ''), w.active_tasks, w.uptime_seconds
"""

_TOUCH = """
UPDATE workspaces SET last_heartbeat_at = now() WHERE id = %(id)s AND status = %(status)s RETURNING id
"""


@dataclass(frozen=True)
class Beat:
    """One heartbeat, cleaned: an absent key is None and keeps what is stored."""

    active_tasks: int | None
    current_task: str | None
    uptime_seconds: int | None
    error_rate: float | None
    sample_error: str | None
    runtime_state: str
    monthly_spend: int | None
    metadata: Mapping[str, Any] | None
    has_metadata: bool
    agent_card: Mapping[str, Any] | None

    @property
    def is_task_push(self) -> bool:
        """A note about the current task only: uptime given as 0 and nothing else reported. It never
        degrades or recovers.
        """
        quiet = not self.error_rate and not self.runtime_state and not self.has_metadata
        return self.uptime_seconds == 0 and quiet


def parse_beat(body: Mapping[str, Any]) -> Beat:
    """Raises BadRequest for a value of the wrong type; odd numbers are clamped, texts cut."""
    metadata = body.get("runtime_metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise BadRequest("invalid request body")
    card = body.get("agent_card")
    return Beat(
        active_tasks=_integer(body, "active_tasks", highest=2_147_483_647),
        current_task=_text(body, "current_task", TASK_CHARS),
        uptime_seconds=_integer(body, "uptime_seconds", highest=2**62),
        error_rate=_rate(body.get("error_rate")),
        sample_error=_text(body, "sample_error", ERROR_BYTES),
        runtime_state=_text(body, "runtime_state", 64) or "",
        monthly_spend=_integer(body, "monthly_spend", highest=MAX_SPEND_CENTS) or None,
        metadata=metadata,
        has_metadata="runtime_metadata" in body and body["runtime_metadata"] is not None,
        agent_card=card if isinstance(card, Mapping) else None,
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest("invalid request body")
    return float(value)


def _integer(body: Mapping[str, Any], key: str, *, highest: int) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    number = _number(value)
    return max(0, min(int(number), highest)) if math.isfinite(number) else 0


def _rate(value: Any) -> float | None:
    if value is None:
        return None
    number = _number(value)
    return max(0.0, min(number, 1.0)) if math.isfinite(number) else 0.0


def _text(body: Mapping[str, Any], key: str, limit: int) -> str | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRequest("invalid request body")
    clean = str(storable(value.replace("\x00", "")))
    return clean.encode()[:limit].decode(errors="ignore")


def next_status(registrant: Registrant, beat: Beat, *, manages_itself: bool) -> Status:
    """The status after this beat. Pure; `manages_itself`: the runtime declared that it judges error rates
    itself.
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
    """Whether this caller lifts the row to online: never a parked one, never with a credential of older
    compute.
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


def heartbeat(body: Mapping[str, Any], authorization: str | None) -> dict[str, Any]:
    """Record one beat and return the answer. Raises BadRequest, NotFound, Unauthorized, Unavailable."""
    workspace_id = _workspace_id(body)
    beat = parse_beat(body)
    for _ in range(RACES):
        registrant = identify(workspace_id, authorization, removed_is_unauthorized=True)
        if registrant.status in DORMANT:
            if _touch(registrant):
                return _answer(registrant)
            continue
        target = next_status(registrant, beat, manages_itself=_manages_itself(registrant, beat))
        stored = _store(registrant, beat, target)
        if stored is not None:
            _publish(registrant, beat, stored)
            return _answer(registrant)
    raise Conflict("workspace is changing; send the next heartbeat")


def _workspace_id(body: Mapping[str, Any]) -> UUID:
    given = body.get("workspace_id") or body.get("id")
    try:
        return UUID(given if isinstance(given, str) else "")
    except ValueError:
        raise BadRequest("invalid request body") from None


def _manages_itself(registrant: Registrant, beat: Beat) -> bool:
    """The declared capability: of this beat, else as last reported. Asked only where it decides."""
    if beat.metadata is not None:
        return (beat.metadata.get("capabilities") or {}).get("status_mgmt") is True
    decides = (registrant.status == Status.ONLINE and (beat.error_rate or 0) >= DEGRADED_FROM) or (
        registrant.status == Status.DEGRADED and (beat.error_rate or 0) < RECOVERED_BELOW
    )
    if not decides:
        return False
    try:
        stored = client().get(f"ws:{registrant.workspace_id}:runtime")
    except redis.RedisError:
        return False
    known = orjson.loads(stored) if isinstance(stored, bytes) else {}
    return (known.get("capabilities") or {}).get("status_mgmt") is True


def _touch(registrant: Registrant) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_TOUCH, {"id": registrant.workspace_id, "status": registrant.status})
        return bool(cursor.rowcount == 1)


def _store(registrant: Registrant, beat: Beat, target: Status) -> Stored | None:
    """One write; with a change of status its event in the same transaction. None: the row changed
    meanwhile.
    """
    if target == registrant.status:
        return _write(registrant, beat, target)
    assert registrant.status in STATES.sources[target]
    with transaction.atomic():
        stored = _write(registrant, beat, target)
        if stored is None:
            return None
        event, payload = _status_event(registrant, beat, target)
        record(event, registrant.workspace_id, payload)
        if target == Status.ONLINE:
            announce_online(registrant)
    return stored


def announce_online(registrant: Registrant) -> None:
    """Tell higher rooms that a start has ended well."""
    if registrant.status in {Status.PROVISIONING, Status.FAILED}:
        for hook in hooks.came_online:
            hook(registrant.workspace_id, registrant.generation)


def _write(registrant: Registrant, beat: Beat, target: Status) -> Stored | None:
    full = not beat.is_task_push
    values: dict[str, Any] = {
        "id": registrant.workspace_id,
        "status": registrant.status,
        "generation": registrant.generation,
        "next": target,
        "active_tasks": beat.active_tasks,
        "current_task": beat.current_task,
        "uptime_seconds": beat.uptime_seconds if full else None,
        "error_rate": beat.error_rate if full else None,
        "sample_error": beat.sample_error if full else None,
        "clears_error": target == Status.ONLINE
        and registrant.status != Status.ONLINE
        and not beat.sample_error,
        "monthly_spend": beat.monthly_spend,
        "agent_card": orjson.dumps(storable(dict(beat.agent_card))).decode() if beat.agent_card else None,
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


def _publish(registrant: Registrant, beat: Beat, stored: Stored) -> None:
    """One pipelined trip: liveness key, declared capabilities, live frames."""
    now = timezone.now()
    pulse = {"active_tasks": stored.active_tasks, "uptime_seconds": stored.uptime_seconds}
    frames = [Frame(EventType.WORKSPACE_HEARTBEAT, registrant.workspace_id, now, pulse)]
    if stored.task != stored.task_before:
        changed = {"current_task": stored.task, "active_tasks": stored.active_tasks}
        frames.insert(0, Frame(EventType.TASK_UPDATED, registrant.workspace_id, now, changed))

    def remember(pipeline: Pipeline) -> None:
        pipeline.set(alive_key(registrant.workspace_id), "online", ex=ALIVE_S)
        if beat.metadata is not None:
            kept = {key: beat.metadata.get(key) for key in ("capabilities", "idle_timeout_seconds")}
            pipeline.set(f"ws:{registrant.workspace_id}:runtime", orjson.dumps(kept), ex=RUNTIME_KEY_S)

    events.publish(*frames, also=remember)


def _answer(registrant: Registrant) -> dict[str, Any]:
    """The secret goes only to a caller that proved itself by a token."""
    answer: dict[str, Any] = {"status": "ok"}
    if registrant.token_id is not None:
        answer["platform_inbound_secret"] = _secret(registrant)
    return answer


def _secret(registrant: Registrant) -> str:
    if registrant.sealed_secret:
        try:
            return unseal_text(registrant.sealed_secret)
        except CannotUnseal:
            log.error("inbound_secret.unreadable", workspace_id=str(registrant.workspace_id))
    return inbound_secret(registrant.workspace_id)
