"""`/ws`: checks who is calling, then forwards the hub's frames. Source: docs/reference/events.md, The
socket.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError, InterfaceError

from access.client_address import client_address
from access.credentials import Kind, Principal, resolve
from activity.events import SEEN_BY_PEERS
from activity.hub import Client, Delivery, everything, hub
from config.errors import DomainError, Unauthorized
from config.http import workspace_uuid
from workspaces.selectors import can_communicate

log = structlog.get_logger(__name__)

SUBPROTOCOL, AUTH_PREFIX = "molecule-ws", "molecule-auth."
MAX_HEX_CHARS = 8192
RECHECK_S = 45.0  # a revoked credential loses its socket within a minute
PEER_CACHE_S = 10.0
REVOKED = 4401


class CanvasSocket(AsyncWebsocketConsumer):
    """A canvas (no `X-Workspace-ID`) sees everything; a workspace sees itself and the visible events of its
    peers.
    """

    async def connect(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._client: Client | None = None
        try:
            self._workspace_id = await database_sync_to_async(self._admit)()
        except DomainError as refusal:
            log.info("socket.refused", reason=refusal.text)
            await self.close()
            return
        self._peers: dict[str, tuple[float, bool]] = {}
        offered = self.scope.get("subprotocols") or []
        await self.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        self._client = Client(wants=self._wants if self._workspace_id else everything)
        self._tasks = [asyncio.create_task(one) for one in (self._forward(), self._end(), self._recheck())]

    async def disconnect(self, code: int) -> None:
        if self._client is not None:
            hub().leave(self._client)
        for task in self._tasks:
            task.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Clients have nothing to say here."""

    def _admit(self) -> UUID | None:
        """The workspace this socket speaks for, None for a canvas. Raises Unauthorized, BadRequest,
        Unavailable.
        """
        self._check_origin()
        principal = self._principal()
        claimed = self._header("x-workspace-id")
        if claimed:
            workspace_id = workspace_uuid(claimed)
            allowed = principal.kind == Kind.WORKSPACE and principal.workspace_id == workspace_id
            if not allowed and principal.kind != Kind.DEV_OPEN:
                raise Unauthorized("invalid workspace auth token")
            return workspace_id
        anonymous_ok = principal.kind == Kind.ANONYMOUS and settings.WS_ANONYMOUS_CANVAS
        if not (principal.is_admin_class or (anonymous_ok and self._header("origin"))):
            raise Unauthorized("canvas auth required")
        return None

    def _principal(self) -> Principal:
        header = self._header("authorization")
        offered = [one for one in self.scope.get("subprotocols") or [] if one.startswith(AUTH_PREFIX)]
        if len(offered) > 1 or (offered and header):
            raise Unauthorized("invalid WebSocket credential")
        if offered:
            header = f"Bearer {_from_hex(offered[0].removeprefix(AUTH_PREFIX))}"
        peer = (self.scope.get("client") or [None])[0]
        return resolve(header, client_address(peer, self._header("x-forwarded-for")))

    def _check_origin(self) -> None:
        origin = self._header("origin")
        same_host = bool(origin) and _host_of(origin or "") == self._header("host")
        if origin and not same_host and origin not in settings.CORS_ORIGINS:
            raise Unauthorized("origin not allowed")

    def _header(self, name: str) -> str | None:
        found = [
            value.decode("latin-1") for key, value in self.scope["headers"] if key.decode("latin-1") == name
        ]
        return ",".join(found) or None

    def _wants(self, delivery: Delivery) -> bool:
        return delivery.workspace_id == str(self._workspace_id) or delivery.event in SEEN_BY_PEERS

    async def _forward(self) -> None:
        assert self._client is not None
        await hub().join(self._client)
        while True:
            delivery = await self._client.queue.get()
            if self._workspace_id is None or await self._may_see(self._workspace_id, delivery.workspace_id):
                await self.send(text_data=delivery.text)

    async def _may_see(self, own_id: UUID, workspace_id: str) -> bool:
        if workspace_id == str(own_id):
            return True
        asked, answer = self._peers.get(workspace_id, (0.0, False))
        if time.monotonic() - asked > PEER_CACHE_S:
            if not workspace_id:
                return False
            try:
                answer = await database_sync_to_async(can_communicate)(own_id, UUID(workspace_id))
            except (DatabaseError, InterfaceError) as error:
                # Cannot tell: this frame is not shown, and the next one asks again.
                log.warning("socket.peer_unknown", error=str(error))
                return False
            self._peers[workspace_id] = (time.monotonic(), answer)
        return answer

    async def _end(self) -> None:
        """Closes when the hub gave the client up."""
        assert self._client is not None
        await self._client.closing.wait()
        await self.close(code=self._client.closed_with)

    async def _recheck(self) -> None:
        """Closes when the credential no longer opens this socket; an unreachable database proves nothing."""
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                await database_sync_to_async(self._admit)()
            except Unauthorized:
                await self.close(code=REVOKED)
                return
            except DomainError:
                continue


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _from_hex(text: str) -> str:
    if len(text) % 2 or len(text) > MAX_HEX_CHARS:
        raise Unauthorized("invalid WebSocket credential")
    try:
        return bytes.fromhex(text).decode()
    except ValueError:
        raise Unauthorized("invalid WebSocket credential") from None
