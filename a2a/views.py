"""`POST /workspaces/:id/a2a`: an asynchronous view, since an agent may think for minutes.

Source: docs/reference/a2a.md.
"""

from __future__ import annotations

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
from a2a.services import Call
from access.authentication import principal_of
from activity.models import ActivityLog
from config.errors import BadGateway, DomainError
from config.http import from_json, json_response, only, workspace_uuid
from config.threads import release_thread
from workspaces.models import DeliveryMode

log = structlog.get_logger(__name__)

CONNECT_S = 10.0
ANSWER_S = 1800.0
_LIMITS = httpx.Timeout(connect=CONNECT_S, read=ANSWER_S, write=60.0, pool=CONNECT_S)


@only("POST")
async def send(request: HttpRequest, workspace_id: str) -> HttpResponse:
    """Class A2A: a workspace's token for its peers, an operator's credential for the canvas user."""
    accepted = await sync_to_async(_accept)(request, workspace_uuid(workspace_id))
    if isinstance(accepted, HttpResponse):
        return accepted
    call, row, envelope = accepted
    release_thread()  # the agent may think for minutes
    began = time.monotonic()
    answer: Any = None
    failure: DomainError | None = None
    status = 200
    try:
        status, answer = await _ask(call, envelope)
    except DomainError as error:
        failure = error
    await sync_to_async(services.complete)(
        row=row, answer=answer, error=failure, duration_ms=int((time.monotonic() - began) * 1000)
    )
    if failure is not None:
        raise failure
    return json_response(answer, status=status)


def _accept(request: HttpRequest, target_id: UUID) -> HttpResponse | tuple[Call, ActivityLog, dict[str, Any]]:
    sender = services.caller_id(principal_of(request), request.META.get("HTTP_X_WORKSPACE_ID"))
    envelope = normalised(from_json(request.body))
    target, row = services.receive(target_id=target_id, sender_id=sender, envelope=envelope)
    if target.delivery_mode == DeliveryMode.POLL:
        return json_response({"status": "queued", "delivery_mode": "poll", "method": envelope.get("method")})
    if row.response_body is not None:  # a repeat of a message that was answered: the answer, not another turn
        return json_response(row.response_body)
    try:
        return services.call_for(target), row, envelope
    except DomainError as error:
        services.complete(row=row, answer=None, error=error, duration_ms=0)
        raise


async def _ask(call: Call, envelope: dict[str, Any]) -> tuple[int, Any]:
    """The agent's answer. Raises BadGateway, or its own status with its error text."""
    parts = urlsplit(call.url)
    headers = {"Authorization": f"Bearer {call.secret}", "Host": parts.netloc}
    url = httpx.URL(call.url)
    if call.address is not None:  # dial what was vetted: a second look-up could give another address
        url = url.copy_with(host=call.address)
    extensions = {"sni_hostname": parts.hostname} if parts.scheme == "https" else {}
    try:
        async with httpx.AsyncClient(timeout=_LIMITS, trust_env=False, follow_redirects=False) as client:
            response = await client.post(url, json=envelope, headers=headers, extensions=extensions)
    except httpx.HTTPError as error:
        log.warning("a2a.unreachable", error=type(error).__name__)
        raise BadGateway("failed to reach workspace agent") from None
    if response.status_code >= 300:
        raise _AgentError(response)
    if not response.content:
        raise BadGateway("agent returned empty response body")
    try:
        return response.status_code, from_json(response.content)
    except DomainError:
        raise BadGateway("failed to read agent response") from None


class _AgentError(DomainError):
    """The agent's refusal under its own status."""

    def __init__(self, response: httpx.Response) -> None:
        text = httpx.codes.get_reason_phrase(response.status_code) or "agent error"
        try:
            given = response.json().get("error")
            text = given if isinstance(given, str) else given["message"]
        except (ValueError, AttributeError, KeyError, TypeError):
            pass
        super().__init__(str(text)[:500])
        self.status = response.status_code  # type: ignore[misc]
