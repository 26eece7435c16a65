"""`GET /workspaces/:id/events/stream`: the frames of one workspace as server-sent events.

An idle stream costs a task and a queue: no thread and no database connection. Source:
docs/reference/events.md, The stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import structlog
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from access.authentication import principal_of
from access.permissions import require_workspace
from activity.hub import STREAM_QUEUE_FRAMES, Client, hub
from config.errors import DomainError, Forbidden, NotFound, Unauthorized, Unavailable
from config.http import only, workspace_uuid
from config.threads import release_thread
from workspaces.models import Workspace

log = structlog.get_logger(__name__)

PING = b": ping\n\n"
PING_S = 15.0
# A revoked credential loses its stream within a minute, though a session's verdict is kept for 30 s.
RECHECK_S = 25.0
SUBSCRIBE_S = 1.0  # the first bytes do not wait longer for a subscription that Valkey does not give
STUCK_S = 10.0
REVOKED = 4401
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@only("GET")
async def stream(request: HttpRequest, workspace_id: str) -> HttpResponseBase:
    """Class Workspace."""
    one = workspace_uuid(workspace_id)
    await sync_to_async(_admit)(request, one)
    if request.method == "HEAD":
        return HttpResponse(headers=HEADERS)
    if not isinstance(request, ASGIRequest):  # a thread of the short-request pool would be held
        raise Unavailable("event streams are served by the realtime process")
    return StreamingHttpResponse(_events(request, one), headers=HEADERS)


def _admit(request: HttpRequest, workspace_id: UUID) -> None:
    """Raises Unauthorized, NotFound, Unavailable. Leaves no connection behind."""
    try:
        require_workspace(principal_of(request), workspace_id)
        if not Workspace.objects.live().filter(pk=workspace_id).exists():
            raise NotFound("workspace not found")
    finally:
        if not connection.in_atomic_block:
            connection.close()


async def _events(request: HttpRequest, workspace_id: UUID) -> AsyncIterator[bytes]:
    own = str(workspace_id)
    client = Client(
        lambda delivery: delivery.workspace_id == own, frames=STREAM_QUEUE_FRAMES, is_socket=False
    )
    joining = asyncio.create_task(hub().join(client))
    watching = [
        joining,
        asyncio.create_task(_recheck(request, workspace_id, client)),
        asyncio.create_task(_cut_off(client, asyncio.current_task())),
    ]
    closing = asyncio.create_task(client.closing.wait())
    taking = asyncio.create_task(client.queue.get())
    try:
        await asyncio.wait({joining}, timeout=SUBSCRIBE_S)
        release_thread()
        yield PING
        while not closing.done():
            await asyncio.wait({taking, closing}, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                delivery = taking.result()
                taking = asyncio.create_task(client.queue.get())
                yield delivery.stream
            elif not closing.done():
                yield PING
    finally:
        hub().leave(client)
        for task in [*watching, closing, taking]:
            task.cancel()


async def _recheck(request: HttpRequest, workspace_id: UUID, client: Client) -> None:
    """Ends the stream when the credential no longer opens it; an unreachable database proves nothing."""
    while True:
        await asyncio.sleep(RECHECK_S)
        request.principal = None  # type: ignore[attr-defined]  # to be asked anew
        try:
            await sync_to_async(_admit)(request, workspace_id)
        except (Unauthorized, Forbidden, NotFound):
            client.close(REVOKED)
        except (DomainError, DatabaseError, InterfaceError):
            continue
        finally:
            release_thread()


async def _cut_off(client: Client, sender: asyncio.Task[object] | None) -> None:
    """A client that does not read at all leaves its sender waiting for it: end that, too."""
    await client.closing.wait()
    await asyncio.sleep(STUCK_S)
    if sender is not None:
        sender.cancel()
