"""The one way a message goes to a workspace, whoever sends it; the outcome is typed.

Nothing is held while the agent thinks: no transaction, no lock, no database connection.
Source: docs/reference/a2a.md, Dispatch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from a2a import services
from a2a.answers import error_text, read_answer
from a2a.callers import Caller
from a2a.results import GATEWAY, GATEWAY_UNKNOWN, Delivered, Kind, Result
from a2a.wire import Call, Failed, Patience, Reply, Trouble, exchange
from activity.models import ActivityLog
from config.errors import (
    BadGateway,
    BadRequest,
    DomainError,
    Forbidden,
    Internal,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from config.http import from_json, to_json
from config.locks import outside_transaction, release_connection
from workspaces.models import DeliveryMode, Status

STARTING = frozenset({Status.PROVISIONING, Status.AWAITING_AGENT})
_UNREACHED = BadGateway("failed to reach workspace agent")
LOST = "failed to read agent response"


@dataclass(frozen=True)
class Ready:
    """A message that may go out: its row in the target's feed, and where it goes."""

    row: ActivityLog
    call: Call
    began: float


def proxy_a2a(
    target_id: UUID, envelope: Mapping[str, Any], caller: Caller, *, total_s: float | None = 1800.0
) -> Result:
    """Send one message and wait for what becomes of it. Raises nothing that is about the target."""
    outside_transaction()
    ready = prepare(target_id, dict(envelope), caller)
    if isinstance(ready, Result):
        return ready
    release_connection()
    outcome = asyncio.run(exchange(ready.call, to_json(envelope), Patience(total_s=total_s)))
    return settle(ready, outcome)


def prepare(target_id: UUID, envelope: dict[str, Any], caller: Caller) -> Ready | Result:
    """Everything that is decided before the agent is called; the message is stored by then."""
    try:
        received = services.receive(target_id=target_id, sender_id=caller.id, envelope=envelope)
    except DomainError as error:
        return _refused(error)
    if received.target.delivery_mode == DeliveryMode.POLL:
        body = {"status": "queued", "delivery_mode": "poll", "method": envelope.get("method")}
        return Result(Kind.QUEUED_POLL, Delivered.YES, 200, body)
    if received.row.response_body is not None:  # a repeat: the answer, not another turn
        return _answered(200, received.row.response_body, None)
    try:
        called = services.call_for(received.target)
    except DomainError as error:
        services.complete(row=received.row, answer=None, error=error, duration_ms=0)
        return _refused(error)
    return Ready(received.row, Call(called.url, called.address, called.secret), time.monotonic())


def settle(ready: Ready, outcome: Reply | Failed) -> Result:
    """Judge what happened on the wire, and put it into the message's row."""
    result = judged(outcome)
    error = None if result.http_status < 400 else _error_of(result)
    services.complete(
        row=ready.row,
        answer=result.body if error is None else None,
        error=error,
        duration_ms=int((time.monotonic() - ready.began) * 1000),
    )
    return result


def judged(outcome: Reply | Failed) -> Result:
    """What the exchange means. Pure."""
    if isinstance(outcome, Failed):
        return _failed(outcome)
    if outcome.status >= 300:
        return _agent_error(outcome)
    if not outcome.body.strip():
        return _told(Kind.AGENT_ERROR, Delivered.YES, BadGateway("agent returned empty response body"))
    try:
        body = from_json(outcome.body)
    except DomainError:
        return _told(Kind.LOST_RESPONSE, Delivered.YES, BadGateway(LOST, delivery_confirmed=True))
    return _answered(outcome.status, body, outcome.body)


def _answered(status: int, body: Any, raw: bytes | None) -> Result:
    answer = read_answer(body)
    if answer is None:
        error = BadGateway(LOST, delivery_confirmed=True)
        return _told(Kind.LOST_RESPONSE, Delivered.YES, error)
    return Result(answer.kind, Delivered.YES, status, body, raw=raw, text=answer.text, error=answer.error)


def _failed(outcome: Failed) -> Result:
    match outcome.trouble:
        case Trouble.UNREACHED:
            return _told(Kind.UNREACHABLE, Delivered.NO, _UNREACHED)
        case Trouble.UNSENDABLE:
            return _told(Kind.INVALID, Delivered.NO, Internal("failed to create proxy request"))
        case Trouble.TORN | Trouble.TOO_LARGE if outcome.status < 300:
            return _told(Kind.LOST_RESPONSE, Delivered.YES, BadGateway(LOST, delivery_confirmed=True))
    error = Unavailable("workspace agent busy — retry after a short backoff", busy=True, retry_after=30)
    return _told(Kind.BUSY, Delivered.UNKNOWN, error)


def _agent_error(reply: Reply) -> Result:
    try:
        body = from_json(reply.body)
    except DomainError:
        body = None
    is_gateway = reply.status in GATEWAY
    delivered = Delivered.YES
    if is_gateway:
        delivered = Delivered.UNKNOWN if reply.status in GATEWAY_UNKNOWN else Delivered.NO
    text = error_text(body) or f"the agent answered {reply.status}"
    return Result(
        Kind.AGENT_ERROR, delivered, reply.status, {"error": text}, error=text, is_gateway=is_gateway
    )


def _refused(error: DomainError) -> Result:
    match error:
        case NotFound() | BadRequest():
            return _told(Kind.INVALID, Delivered.NO, error)
        case Forbidden() | PaymentRequired() | BadGateway():
            return _told(Kind.DENIED, Delivered.NO, error)
    if error.fields.get("waking"):
        return _told(Kind.WAKING, Delivered.NO, error)
    is_starting = error.fields.get("status") in STARTING
    return _told(Kind.SETTLING if is_starting else Kind.UNREACHABLE, Delivered.NO, error)


def _told(kind: Kind, delivered: Delivered, error: DomainError) -> Result:
    return Result(kind, delivered, error.status, error.body, headers=error.headers, error=error.text)


def _error_of(result: Result) -> DomainError:
    error = DomainError(result.error)
    error.status = result.http_status  # type: ignore[misc]
    return error
