"""The one way a message goes to a workspace, whoever sends it; the outcome is typed.

Three parts: what is decided before, the exchange, what is written afterwards. Nothing is held during the
exchange: no transaction, no lock, no thread of a request, no database connection.
Source: docs/reference/a2a.md, Dispatch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import redis
import structlog
from django.conf import settings
from django.db import transaction

from a2a import judgement
from a2a.callers import Caller
from a2a.envelope import message_id, normalised
from a2a.results import Delivered, Kind, Result
from a2a.services import messages, queue, targets
from a2a.wire import Call, Failed, Patience, Reply, Stream, Trouble, exchange
from activity.events import last_sign
from activity.models import ActivityLog
from activity.tally import tally
from config.errors import DomainError
from config.http import to_json
from config.locks import outside_transaction, release_connection
from config.persistence import persistent
from config.valkey import client
from workspaces.cache import runtime_key
from workspaces.models import DeliveryMode, Workspace

log = structlog.get_logger(__name__)

CEILING_S = 1800.0
SEND = "message/send"


@dataclass(frozen=True)
class Terms:
    """How a message is sent. `total_s`: how long it may take in all, None for no ceiling.

    `queues` keeps it for a busy target, `queues_on_timeout` also when the whole time was used up. `attempt`
    marks one that comes from the queue: it is sent although its row is there already. `delegation_id`,
    `expires_at` and `queue_key` (what stands for the message there instead of its id) go with it into the
    queue; they are never read from a message.
    """

    total_s: float | None = CEILING_S
    queues: bool = True
    queues_on_timeout: bool = True
    attempt: int = 0
    delegation_id: str | None = None
    expires_at: datetime | None = None
    queue_key: str | None = None


DEFAULT_TERMS = Terms()
BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


@dataclass(frozen=True)
class Ready:
    """A message that may go out: its row in the target's feed, and where it goes."""

    target: Workspace
    caller: Caller
    envelope: dict[str, Any]
    row: ActivityLog
    call: Call
    patience: Patience
    terms: Terms
    began: float = field(default_factory=time.monotonic)

    @property
    def is_send(self) -> bool:
        return self.envelope.get("method") == SEND

    @property
    def body(self) -> bytes:
        return to_json(self.envelope)


def proxy_a2a(
    target_id: UUID, body: Mapping[str, Any], caller: Caller, terms: Terms = DEFAULT_TERMS
) -> Result:
    """Send one message and wait for what becomes of it. Raises nothing that is about the target."""
    outside_transaction()
    ready = prepare(target_id, dict(body), caller, terms)
    if isinstance(ready, Result):
        return ready
    release_connection()
    outcome = asyncio.run(exchange(ready.call, ready.body, ready.patience))
    return persistent(lambda: settle(ready, outcome))


def prepare(target_id: UUID, body: Any, caller: Caller, terms: Terms = DEFAULT_TERMS) -> Ready | Result:
    """Everything that is decided before the agent is called, in the documented order; the message is stored
    by then.
    """
    try:
        target = targets.admitted(target_id, caller)
        envelope = normalised(body)
    except DomainError as error:
        return _counted(judgement.of_refusal(error))
    stored = messages.ingest(target, caller, envelope)
    if target.delivery_mode == DeliveryMode.POLL:
        targets.wake_sleeping(target)  # nobody would read the inbox
        return _counted(judgement.polled(envelope.get("method")))
    if stored.is_repeat and not terms.attempt and (known := _known(target_id, envelope, stored)):
        return known
    try:
        call = targets.call_for(target)
    except DomainError as error:
        result = judgement.of_refusal(error)
        if not terms.attempt:
            messages.complete(stored.row, caller, target.name, result, 0)
        return _counted(result)
    if terms.attempt:
        call = replace(call, headers={"X-A2A-Redelivery": str(terms.attempt)})
    patience = _patience(target_id, terms.total_s)
    return Ready(target, caller, envelope, stored.row, call, patience, terms)


def _known(target_id: UUID, envelope: dict[str, Any], stored: messages.Ingested) -> Result | None:
    """What became of the same message before; None when it may be sent again."""
    if stored.row.response_body is not None:
        return judgement.of_reply(Reply(200, to_json(stored.row.response_body)))
    if item := queue.active_item(target_id, message_id(envelope) or ""):
        return judgement.queued(item.pk, queue.depth_of(target_id), Delivered.UNKNOWN)
    return judgement.in_flight() if stored.is_in_flight else None


def _patience(target_id: UUID, total_s: float | None) -> Patience:
    return Patience(
        headers_s=float(settings.A2A_PROXY_RESPONSE_HEADER_TIMEOUT),
        idle_s=float(_idle_override(target_id) or settings.A2A_IDLE_TIMEOUT_SECONDS),
        total_s=total_s,
        last_sign=_last_sign(target_id),
    )


def _last_sign(target_id: UUID) -> Callable[[], Awaitable[float | None]]:
    return lambda: asyncio.to_thread(last_sign, target_id)


def _idle_override(target_id: UUID) -> int | None:
    """What the runtime declared about itself with its last heartbeat."""
    try:
        stored = client().get(runtime_key(target_id))
    except redis.RedisError:
        return None
    known = orjson.loads(stored) if isinstance(stored, bytes) else {}
    seconds = known.get("idle_timeout_seconds")
    return seconds if isinstance(seconds, int) and seconds > 0 else None


async def exchanged(ready: Ready, stream: Stream | None = None) -> Reply | Failed:
    """The exchange itself; `stream` gets the chunks of an event stream as they come."""
    return await exchange(ready.call, ready.body, ready.patience, stream)


def settle(ready: Ready, outcome: Reply | Failed) -> Result:
    """Judge what happened on the wire, keep the message if the target is busy, and write it down."""
    tally.observe("molecule_a2a_request_seconds", time.monotonic() - ready.began, BOUNDS_S)
    result = _judged(ready, outcome)
    if result.kind == Kind.BUSY and ready.is_send and _may_queue(ready.terms, result):
        return _counted(_queued(ready, result))
    if not ready.terms.attempt or is_final(result):
        duration_ms = int((time.monotonic() - ready.began) * 1000)
        messages.complete(ready.row, ready.caller, ready.target.name, result, duration_ms)
    messages.note_success(ready.target.pk, ready.caller, result)
    return _counted(result)


def _may_queue(terms: Terms, result: Result) -> bool:
    return terms.queues and (terms.queues_on_timeout or not result.timed_out)


def is_final(result: Result) -> bool:
    """Whether a message that was sent from the queue has come to its end."""
    passing = {Kind.BUSY, Kind.SETTLING, Kind.WAKING, Kind.DEAD, Kind.UNREACHABLE}
    return result.kind not in passing and not result.is_gateway


def _judged(ready: Ready, outcome: Reply | Failed) -> Result:
    if isinstance(outcome, Reply):
        if judgement.says_busy(outcome):
            return judgement.busy(Delivered.NO)
        result = judgement.of_reply(outcome)
        if result.is_gateway and targets.examine(ready.target.pk) == targets.Life.GONE:
            return judgement.dead(Delivered.UNKNOWN)
        return result
    asks_backend = outcome.trouble in {Trouble.UNREACHED, Trouble.BROKEN, Trouble.SILENT}
    life = targets.examine(ready.target.pk) if asks_backend else targets.Life.UNSURE
    result = judgement.of_failure(outcome, life)
    log.info("a2a.failed", target=str(ready.target.pk), kind=result.kind, reason=outcome.reason)
    return replace(result, timed_out=outcome.is_ceiling)


def _queued(ready: Ready, result: Result) -> Result:
    with transaction.atomic():
        kept = queue.enqueue_message(
            ready.target.pk,
            ready.envelope,
            ready.caller,
            key=ready.terms.queue_key,
            expires_at=ready.terms.expires_at,
            delegation_id=ready.terms.delegation_id,
        )
        told = judgement.queued(kept.item.pk, kept.depth, result.delivered)
        messages.complete(ready.row, ready.caller, ready.target.name, told, 0)
    return told


def _counted(result: Result) -> Result:
    tally.add("molecule_a2a_requests_total", kind=str(result.kind))
    return result
