"""`/ws`: checks who is calling, then forwards the hub's frames.

Source: docs/reference/events.md, The socket.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError

from access.credentials import Kind
from access.sockets import REVOKED, GuardedSocket
from activity.events import SEEN_BY_PEERS, EventType
from activity.hub import Client, Delivery, everything, hub
from config.errors import Unauthorized
from config.http import workspace_uuid
from config.threads import in_thread
from workspaces.selectors import can_communicate

log = structlog.get_logger(__name__)

MAX_INCOMING_BYTES = 4096
PEER_CACHE_S = 10.0
TOO_BIG = 1009
_TREE_CHANGES = frozenset({EventType.WORKSPACE_MOVED, EventType.WORKSPACE_REMOVED})


class CanvasSocket(GuardedSocket):
    """A canvas (no `X-Workspace-ID`) sees everything;
    a workspace sees itself and the visible events of its peers.
    """

    _client: Client | None = None
    _workspace_id: UUID | None = None  # whom this socket speaks for; None for a canvas

    async def opened(self) -> None:
        self._peers: dict[str, tuple[float, bool]] = {}
        self._client = Client(wants=self._wants if self._workspace_id else everything)
        forwarding = asyncio.create_task(self._forward())
        self.tasks = [forwarding, asyncio.create_task(self._end(forwarding))]

    async def disconnect(self, code: int) -> None:
        if self._client is not None:
            hub().leave(self._client)
        await super().disconnect(code)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Clients have nothing to say here, least of all at length."""
        if self._client is not None and len(text_data or bytes_data or "") > MAX_INCOMING_BYTES:
            self._client.close(TOO_BIG)

    async def revoked(self) -> None:
        if self._client is not None:
            self._client.close(REVOKED)

    def admit(self) -> None:
        """Raises Unauthorized, Forbidden, BadRequest, Unavailable."""
        self.check_origin()
        principal = self.principal()
        claimed = self.header("x-workspace-id")
        if claimed:
            workspace_id = workspace_uuid(claimed)
            allowed = principal.kind == Kind.WORKSPACE and principal.workspace_id == workspace_id
            if not allowed and principal.kind != Kind.DEV_OPEN:
                is_absent = principal.kind == Kind.ANONYMOUS
                raise Unauthorized(f"{'missing' if is_absent else 'invalid'} workspace auth token")
            self._workspace_id = workspace_id
        elif not principal.is_admin_class:
            if principal.kind != Kind.ANONYMOUS:
                raise Unauthorized("invalid canvas auth token")
            if not (settings.WS_ANONYMOUS_CANVAS and self.header("origin")):
                raise Unauthorized("canvas auth required")

    def _wants(self, delivery: Delivery) -> bool:
        return delivery.workspace_id == str(self._workspace_id) or delivery.event in SEEN_BY_PEERS

    async def _forward(self) -> None:
        assert self._client is not None
        await hub().join(self._client)
        while True:
            delivery = await self._client.queue.get()
            if delivery.event in _TREE_CHANGES:
                self._peers.clear()
            if self._workspace_id is None or await self._may_see(self._workspace_id, delivery):
                try:
                    await self.send(text_data=delivery.text)
                except OSError:  # the client has gone; the server tells `disconnect`
                    return

    async def _may_see(self, own_id: UUID, delivery: Delivery) -> bool:
        workspace_id = delivery.workspace_id
        if workspace_id == str(own_id):
            return True
        if delivery.event == EventType.WORKSPACE_REMOVED:
            return await self._ask(own_id, workspace_id, even_removed=True) is True
        asked, answer = self._peers.get(workspace_id, (0.0, False))
        if time.monotonic() - asked > PEER_CACHE_S:
            found = await self._ask(own_id, workspace_id) if workspace_id else False
            if found is None:
                return False
            answer = found
            self._peers[workspace_id] = (time.monotonic(), answer)
        return answer

    async def _ask(self, own_id: UUID, workspace_id: str, **options: Any) -> bool | None:
        """None when the database cannot be asked: this frame is not shown, and the next one asks again."""
        try:
            return await in_thread(can_communicate)(own_id, UUID(workspace_id), **options)
        except (DatabaseError, InterfaceError) as error:
            log.warning("socket.peer_unknown", error=str(error))
            return None

    async def _end(self, forwarding: asyncio.Task[None]) -> None:
        """Closes when the hub gave the client up."""
        assert self._client is not None
        await self._client.closing.wait()
        forwarding.cancel()
        await self.close(code=self._client.closed_with)
