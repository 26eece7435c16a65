"""`POST /workspaces/:id/a2a`, asynchronous since an agent may think for minutes, and the queue's routes.

Source: docs/reference/a2a.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from a2a import dispatch
from a2a.callers import CallerKind
from a2a.classification import caller_of
from a2a.dispatch import CEILING_S, Ready, Terms
from a2a.models import QueueItem, QueueStatus
from a2a.results import Result
from a2a.services.sweeps import drop_stale
from a2a.wire import Stream
from config.errors import BadRequest, NotFound, failing_as
from config.http import from_json, json_response, only, workspace_uuid
from config.threads import in_thread, release_thread

MOST_TIMEOUT_S = 3600
DEFAULT_AGE_MIN = 60
log = structlog.get_logger(__name__)
_turns: set[asyncio.Task[Result]] = set()  # the loop itself only remembers tasks weakly


@only("POST")
async def send(request: HttpRequest, workspace_id: str) -> HttpResponseBase:
    """Class A2A: a workspace's token for its relatives, an operator's credential for the canvas user."""
    prepared = await sync_to_async(_prepared)(request, workspace_uuid(workspace_id))
    if isinstance(prepared, Result):
        return _response(prepared)
    release_thread()  # the agent may think for minutes
    stream = Stream()
    turn = asyncio.create_task(_turn(prepared, stream))
    _turns.add(turn)  # whoever asked may leave; the answer still reaches the feed
    turn.add_done_callback(_over)
    began = asyncio.create_task(stream.begun.wait())
    try:
        await asyncio.wait({turn, began}, timeout=_budget(prepared), return_when=asyncio.FIRST_COMPLETED)
    finally:
        began.cancel()
    if turn.done():
        return _response(turn.result())
    if stream.begun.is_set():
        return _streamed(stream)
    body = {"status": "queued", "delivery_mode": "push-async", "method": prepared.envelope.get("method")}
    return json_response(body)  # the answer comes to the canvas as A2A_RESPONSE


def _prepared(request: HttpRequest, target_id: UUID) -> Ready | Result:
    caller = caller_of(request, target_id)
    try:
        body = from_json(request.body)
    except BadRequest:
        body = None  # the pipeline says so, after it has judged the caller
    total_s = None if caller.kind == CallerKind.CANVAS else CEILING_S
    return dispatch.prepare(target_id, body, caller, Terms(total_s=_total(request, total_s)))


def _total(request: HttpRequest, default: float | None) -> float | None:
    """`X-Timeout`: positive seconds are the deadline, 0 lifts it, anything else says nothing."""
    given = request.META.get("HTTP_X_TIMEOUT", "").strip()
    if not given.isdecimal() or len(given) > 9:
        return default
    return min(int(given), MOST_TIMEOUT_S) or None


def _budget(ready: Ready) -> float | None:
    """How long the canvas waits on the line: its browser and the proxies in between give up soon after."""
    if ready.caller.kind != CallerKind.CANVAS or settings.A2A_CANVAS_SYNC_DISABLE or not ready.is_send:
        return None
    return float(settings.A2A_CANVAS_SYNC_BUDGET)


def _over(turn: asyncio.Task[Result]) -> None:
    _turns.discard(turn)
    if not turn.cancelled() and (error := turn.exception()):
        log.error("a2a.not_written", error=repr(error))


async def _turn(ready: Ready, stream: Stream) -> Result:
    outcome = await dispatch.exchanged(ready, stream)
    return await in_thread(dispatch.settle)(ready, outcome)


def _response(result: Result) -> HttpResponse:
    if result.raw is not None:
        return HttpResponse(result.raw, status=result.http_status, content_type="application/json")
    return json_response(result.body, status=result.http_status, headers=result.headers)


def _streamed(stream: Stream) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in stream.chunks():
            yield chunk

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(
        chunks(), status=stream.status, content_type="text/event-stream", headers=headers
    )


@only("GET")
def queue_status(request: HttpRequest, workspace_id: str, queue_id: str) -> HttpResponse:
    """Class A2A: what became of a queued message, for its sender, its target and operators."""
    target_id = workspace_uuid(workspace_id)
    caller = caller_of(request, target_id)
    try:
        item = QueueItem.objects.filter(pk=UUID(queue_id), workspace_id=target_id).first()
    except ValueError:
        raise BadRequest("invalid queue id") from None
    concerned = item is not None and caller.id in {item.caller_id, item.workspace_id}
    if item is None or not (concerned or caller.kind == CallerKind.CANVAS):
        raise NotFound("queue item not found")
    return json_response(_shown(item))


def _shown(item: QueueItem) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "queue_id": item.pk,
        "workspace_id": item.workspace_id,
        "status": item.status,
        "priority": item.priority,
        "attempts": item.attempts,
        "enqueued_at": item.enqueued_at,
    }
    optional = {
        "last_error": item.last_error,
        "dispatched_at": item.dispatched_at,
        "completed_at": item.completed_at,
        "expires_at": item.expires_at,
        "response_body": item.response_body if item.status == QueueStatus.COMPLETED else None,
    }
    return shown | {key: value for key, value in optional.items() if value is not None}


class QueueViewSet(ViewSet):
    """`/admin/a2a-queue`."""

    def drop_stale(self, request: Request) -> Response:
        """Give up messages that have waited too long."""
        given = request.query_params
        minutes = given.get("max_age_minutes", str(DEFAULT_AGE_MIN))
        if not minutes.isdecimal() or len(minutes) > 8 or int(minutes) < 1:
            raise BadRequest("max_age_minutes must be a positive integer")
        target = given.get("workspace_id")
        try:
            workspace_id = UUID(target) if target else None
        except ValueError:
            raise BadRequest("workspace_id must be a UUID") from None
        with failing_as("failed to drop stale items"):
            age = timedelta(minutes=int(minutes))
            dropped = drop_stale(timezone.now(), older_than=age, workspace_id=workspace_id)
        return Response({"dropped": dropped})
