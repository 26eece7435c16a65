"""`POST /workspaces/:id/a2a`: an asynchronous view, since an agent may think for minutes.

Source: docs/reference/a2a.md.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import structlog
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse

from a2a import services
from a2a.envelope import normalised
from a2a.services import ANSWER_S, Call
from access.authentication import principal_of
from activity.models import ActivityLog
from config.errors import BadGateway, Conflict, DomainError
from config.http import from_json, json_response, only, workspace_uuid
from config.threads import in_thread, release_thread
from workspaces.models import DeliveryMode

log = structlog.get_logger(__name__)

CONNECT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_LIMITS = httpx.Timeout(connect=CONNECT_S, read=ANSWER_S, write=60.0, pool=CONNECT_S)
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
        status, answer = await _ask(call, envelope)
    except DomainError as error:
        failure = error
    except Exception:
        log.exception("a2a.failed", workspace_id=str(row.workspace_id))
        failure = BadGateway("failed to reach workspace agent")
    spent_ms = int((time.monotonic() - began) * 1000)
    await in_thread(services.complete)(row=row, answer=answer, error=failure, duration_ms=spent_ms)
    return failure or json_response(answer, status=status)


async def _ask(call: Call, envelope: dict[str, Any]) -> tuple[int, Any]:
    """The agent's answer. Raises BadGateway, or its own status with its error text."""
    try:
        status, body = await _post(call, envelope)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        log.warning("a2a.unreachable", error=type(error).__name__)
        raise BadGateway("failed to reach workspace agent") from None
    if status >= 300:
        raise _AgentError(status, body)
    if not body:
        raise BadGateway("agent returned empty response body")
    try:
        return status, from_json(body)
    except DomainError:
        raise BadGateway("failed to read agent response") from None


async def _post(call: Call, envelope: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body. Raises httpx errors, and BadGateway for an answer that is larger than we take."""
    parts = urlsplit(call.url)
    headers = {"Authorization": f"Bearer {call.secret}", "Host": parts.netloc}
    url = httpx.URL(call.url)
    if call.address is not None:  # dial what was vetted: a second look-up could give another address
        url = url.copy_with(host=call.address)
    extensions = {"sni_hostname": parts.hostname} if parts.scheme == "https" else {}
    async with httpx.AsyncClient(timeout=_LIMITS, trust_env=False, follow_redirects=False) as client:
        request = client.build_request("POST", url, json=envelope, headers=headers, extensions=extensions)
        response = await client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise BadGateway(
                        "agent response is too large",
                        delivery_confirmed=True,
                        truncated=True,
                        max_bytes=MAX_ANSWER_BYTES,
                    )
            return response.status_code, bytes(body)
        finally:
            await response.aclose()


class _AgentError(DomainError):
    """The agent's refusal under its own status."""

    def __init__(self, status: int, body: bytes) -> None:
        text = httpx.codes.get_reason_phrase(status) or "agent error"
        try:
            given = from_json(body)["error"]
            text = given if isinstance(given, str) else given["message"]
        except (DomainError, KeyError, TypeError):
            pass
        super().__init__(str(text)[:500])
        self.status = status  # type: ignore[misc]
