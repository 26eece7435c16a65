"""`POST /workspaces/:id/a2a`: an asynchronous view, since an agent may think for minutes.

Source: docs/reference/a2a.md.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import structlog
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse

from a2a import services
from a2a.calls import Call, ask
from a2a.envelope import normalised
from access.authentication import principal_of
from activity.models import ActivityLog
from config.errors import BadGateway, Conflict, DomainError
from config.http import from_json, json_response, only, workspace_uuid
from config.threads import in_thread, release_thread
from workspaces.models import DeliveryMode

log = structlog.get_logger(__name__)

_turns: set[asyncio.Task[HttpResponse | DomainError]] = set()  # the loop itself only remembers tasks weakly


@only("POST")
async def send(request: HttpRequest, workspace_id: str) -> HttpResponse:
    """Class A2A: a workspace's token for its peers, an operator's credential for the canvas user."""
    accepted = await sync_to_async(_accept)(request, workspace_uuid(workspace_id))
    if isinstance(accepted, HttpResponse):
        return accepted
    release_thread()  # the agent may think for minutes
    turn = asyncio.create_task(_turn(*accepted))
    _turns.add(turn)
    turn.add_done_callback(_turns.discard)
    outcome = await asyncio.shield(turn)  # whoever asked may leave; the answer still reaches the feed
    if isinstance(outcome, DomainError):
        raise outcome
    return outcome


def _accept(request: HttpRequest, target_id: UUID) -> HttpResponse | tuple[Call, ActivityLog, dict[str, Any]]:
    sender = services.caller_id(principal_of(request), request.META.get("HTTP_X_WORKSPACE_ID"))
    envelope = normalised(from_json(request.body))
    received = services.receive(target_id=target_id, sender_id=sender, envelope=envelope)
    row = received.row
    if received.target.delivery_mode == DeliveryMode.POLL:
        services.wake_sleeping(received.target)  # nobody would read the inbox
        return json_response({"status": "queued", "delivery_mode": "poll", "method": envelope.get("method")})
    if row.response_body is not None:  # a repeat of a message that was answered: the answer, not another turn
        return json_response(row.response_body)
    if received.is_in_flight:
        raise Conflict("message is being processed", status="pending")
    try:
        return services.call_for(received.target), row, envelope
    except DomainError as error:
        services.complete(row=row, answer=None, error=error, duration_ms=0)
        raise


async def _turn(call: Call, row: ActivityLog, envelope: dict[str, Any]) -> HttpResponse | DomainError:
    """Ask the agent and put the outcome into the row, whatever it is."""
    began = time.monotonic()
    answer: Any = None
    failure: DomainError | None = None
    status = 200
    try:
        status, answer = await ask(call, envelope)
    except DomainError as error:
        failure = error
    except Exception:
        log.exception("a2a.failed", workspace_id=str(row.workspace_id))
        failure = BadGateway("failed to reach workspace agent")
    spent_ms = int((time.monotonic() - began) * 1000)
    await in_thread(services.complete)(row=row, answer=answer, error=failure, duration_ms=spent_ms)
    return failure or json_response(answer, status=status)
