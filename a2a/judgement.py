"""What an exchange means: from what happened on the wire to a typed result. Pure.

Source: docs/reference/a2a.md, Outcomes.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx

from a2a import wire
from a2a.answers import error_text, read_answer
from a2a.results import GATEWAY, GATEWAY_UNKNOWN, Delivered, Kind, Result
from a2a.services.targets import STARTING, UNREACHED, Life, Unreachable
from a2a.wire import Failed, Reply, Trouble
from config.errors import (
    BadGateway,
    BadRequest,
    Conflict,
    DomainError,
    Forbidden,
    Internal,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from config.http import from_json

LOST = "failed to read agent response"
EVENT_STREAM = "text/event-stream"
BACKOFF_S = 30
RESTART_S = 15


def of_reply(reply: Reply) -> Result:
    """The agent answered: an answer, its own error, or something that is neither."""
    if reply.status >= 300:
        return _agent_error(reply)
    raw = reply.body
    if reply.content_type.startswith(EVENT_STREAM):
        raw = last_event(raw)
    if not raw.strip():
        error = BadGateway("agent returned empty response body")
        return told(Kind.AGENT_ERROR, Delivered.YES, error)
    try:
        body = from_json(raw)
    except DomainError:
        return lost()
    answer = read_answer(body)
    if answer is None:
        return lost()
    return Result(
        answer.kind, Delivered.YES, reply.status, body, raw=raw, text=answer.text, error=answer.error
    )


def last_event(stream: bytes) -> bytes:
    """The last whole JSON of a `data:` line; empty when there is none."""
    for line in reversed(stream.replace(b"\r\n", b"\n").split(b"\n")):
        if line.startswith(b"data:"):
            data = line[5:].strip()
            try:
                from_json(data)
            except DomainError:
                continue
            return data
    return b""


def of_failure(outcome: Failed, life: Life) -> Result:
    """It did not come to an answer. `life` is what the backend knows of the target."""
    match outcome.trouble:
        case Trouble.UNSENDABLE:
            return told(Kind.INVALID, Delivered.NO, Internal("failed to create proxy request"))
        case Trouble.TOO_LARGE:
            return lost(truncated=True, max_bytes=wire.MAX_ANSWER_BYTES)
        case Trouble.TORN if outcome.status < 300:
            return lost()
        case Trouble.TORN:
            return _agent_error(Reply(outcome.status, b""))
    if life == Life.GONE:
        return dead(Delivered.NO)  # whatever it had of the message went with it
    if outcome.trouble == Trouble.UNREACHED and life == Life.ALIVE:
        return settling()
    if outcome.trouble == Trouble.UNREACHED and life == Life.UNSURE:
        return told(Kind.UNREACHABLE, Delivered.NO, BadGateway(UNREACHED))
    is_certain = outcome.trouble == Trouble.UNREACHED
    return busy(Delivered.NO if is_certain else Delivered.UNKNOWN, reason=outcome.reason)


def busy(delivered: Delivered, *, reason: str = "") -> Result:
    error = Unavailable(
        "workspace agent busy — retry after a short backoff",
        headers={"Retry-After": str(BACKOFF_S)},
        busy=True,
        retry_after=BACKOFF_S,
    )
    return told(Kind.BUSY, delivered, error, reason=reason)


def settling() -> Result:
    error = Unavailable(
        "workspace agent restarting — retry after a short backoff",
        headers={"Retry-After": str(BACKOFF_S)},
        busy=True,
        retry_after=BACKOFF_S,
    )
    return told(Kind.SETTLING, Delivered.NO, error)


def dead(delivered: Delivered) -> Result:
    error = Unavailable(
        "workspace agent unreachable — container restart triggered",
        headers={"Retry-After": str(RESTART_S)},
        restarting=True,
        retry_after=RESTART_S,
    )
    return told(Kind.DEAD, delivered, error)


def lost(**more: Any) -> Result:
    return told(Kind.LOST_RESPONSE, Delivered.YES, BadGateway(LOST, delivery_confirmed=True, **more))


def queued(queue_id: UUID, depth: int, delivered: Delivered) -> Result:
    body = {
        "queued": True,
        "queue_id": queue_id,
        "queue_depth": depth,
        "message": "workspace agent busy — request queued, will dispatch when capacity available",
    }
    return Result(Kind.QUEUED_BUSY, delivered, 202, body, queue_id=queue_id)


def polled(method: Any) -> Result:
    body = {"status": "queued", "delivery_mode": "poll", "method": method}
    return Result(Kind.QUEUED_POLL, Delivered.YES, 200, body)


def in_flight() -> Result:
    error = Conflict("message is being processed", status="pending")
    return told(Kind.BUSY, Delivered.UNKNOWN, error)


def of_refusal(error: DomainError) -> Result:
    """The message was not sent."""
    match error:
        case NotFound() | BadRequest():
            return told(Kind.INVALID, Delivered.NO, error)
        case Unreachable():
            return told(Kind.UNREACHABLE, Delivered.NO, error)
        case Forbidden() | PaymentRequired() | BadGateway():
            return told(Kind.DENIED, Delivered.NO, error)
    if error.fields.get("waking"):
        return told(Kind.WAKING, Delivered.NO, error)
    is_starting = error.fields.get("status") in STARTING
    return told(Kind.SETTLING if is_starting else Kind.UNREACHABLE, Delivered.NO, error)


def says_busy(reply: Reply) -> bool:
    """The agent itself declines for now: it surely does not work on the message."""
    if reply.status == 429:
        return True
    return reply.status == 503 and _parsed(reply.body).get("busy") is True


def _agent_error(reply: Reply) -> Result:
    is_gateway = reply.status in GATEWAY
    delivered = Delivered.YES
    if is_gateway:
        delivered = Delivered.UNKNOWN if reply.status in GATEWAY_UNKNOWN else Delivered.NO
    text = error_text(_parsed(reply.body)) or httpx.codes.get_reason_phrase(reply.status) or "agent error"
    return Result(
        Kind.AGENT_ERROR,
        delivered,
        reply.status,
        {"error": text},
        error=text,
        is_gateway=is_gateway,
        is_the_agents=True,
    )


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = from_json(body)
    except DomainError:
        return {}
    return value if isinstance(value, dict) else {}


def told(kind: Kind, delivered: Delivered, error: DomainError, *, reason: str = "") -> Result:
    return Result(
        kind, delivered, error.status, error.body, headers=error.headers, error=reason or error.text
    )
