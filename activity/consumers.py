"""`/ws`: checks who is calling, then forwards the hub's frames.

Source: docs/reference/events.md, The socket.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError, InterfaceError

from access.client_address import client_address
from access.credentials import Kind, Principal, resolve
from access.rate_limits import charge_handshake, count_failure
from access.tenant_guard import check_tenant
from activity.events import SEEN_BY_PEERS, EventType
from activity.hub import Client, Delivery, everything, hub
from config.errors import DomainError, Forbidden, Unauthorized
from config.http import to_json, workspace_uuid
from config.threads import in_thread
from workspaces.selectors import can_communicate

log = structlog.get_logger(__name__)

SUBPROTOCOL, AUTH_PREFIX = "molecule-ws", "molecule-auth."
MAX_HEX_CHARS = 8192
MAX_INCOMING_BYTES = 4096
# A revoked credential loses its socket within a minute, though a session's verdict is kept for 30 s.
RECHECK_S = 25.0
PEER_CACHE_S = 10.0
REVOKED, TOO_BIG = 4401, 1009
_TREE_CHANGES = frozenset({EventType.WORKSPACE_MOVED, EventType.WORKSPACE_REMOVED})


class CanvasSocket(AsyncWebsocketConsumer):
    """A canvas (no `X-Workspace-ID`) sees everything;
    a workspace sees itself and the visible events of its peers.
    """

    async def connect(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._client: Client | None = None
        try:
            self._workspace_id = await in_thread(self._enter)()
        except DomainError as refusal:
            log.info("socket.refused", reason=refusal.text)
            await self._refuse(refusal)
            return
        self._peers: dict[str, tuple[float, bool]] = {}
        offered = self.scope.get("subprotocols") or []
        await self.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        self._client = Client(wants=self._wants if self._workspace_id else everything)
        forwarding = asyncio.create_task(self._forward())
        self._tasks = [
            forwarding,
            asyncio.create_task(self._end(forwarding)),
            asyncio.create_task(self._recheck()),
        ]

    async def _refuse(self, refusal: DomainError) -> None:
        """The answer's own status where the server can send one before the upgrade; 403 otherwise."""
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await self.close()
            return
        headers = {"Content-Type": "application/json", **refusal.headers}
        start: Any = {
            "type": "websocket.http.response.start",
            "status": refusal.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        body: Any = {"type": "websocket.http.response.body", "body": to_json(refusal.body)}
        await self.base_send(start)
        await self.base_send(body)
        raise StopConsumer

    async def disconnect(self, code: int) -> None:
        if self._client is not None:
            hub().leave(self._client)
        for task in self._tasks:
            task.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Clients have nothing to say here, least of all at length."""
        if self._client is not None and len(text_data or bytes_data or "") > MAX_INCOMING_BYTES:
            self._client.close(TOO_BIG)

    def _enter(self) -> UUID | None:
        """The first admission, which is a request: it is for this tenant, and it is charged to its caller."""
        try:
            check_tenant(self.scope["path"], self._meta())
            charge_handshake(self._principal(), self._address())
            return self._admit()
        except Unauthorized:
            count_failure("socket", self._address())
            raise

    def _admit(self) -> UUID | None:
        """The workspace this socket speaks for, None for a canvas.

        Raises Unauthorized, BadRequest, Unavailable.
        """
        self._check_origin()
        principal = self._principal()
        claimed = self._header("x-workspace-id")
        if claimed:
            workspace_id = workspace_uuid(claimed)
            allowed = principal.kind == Kind.WORKSPACE and principal.workspace_id == workspace_id
            if not allowed and principal.kind != Kind.DEV_OPEN:
                is_absent = principal.kind == Kind.ANONYMOUS
                raise Unauthorized(f"{'missing' if is_absent else 'invalid'} workspace auth token")
            return workspace_id
        if principal.is_admin_class:
            return None
        if principal.kind != Kind.ANONYMOUS:
            raise Unauthorized("invalid canvas auth token")
        if not (settings.WS_ANONYMOUS_CANVAS and self._header("origin")):
            raise Unauthorized("canvas auth required")
        return None

    def _principal(self) -> Principal:
        header = self._header("authorization")
        offered = [one for one in self.scope.get("subprotocols") or [] if one.startswith(AUTH_PREFIX)]
        if len(offered) > 1 or (offered and header):
            raise Unauthorized("invalid WebSocket credential")
        if offered:
            header = f"Bearer {_from_hex(offered[0].removeprefix(AUTH_PREFIX))}"
        return resolve(header, self._address(), self._header("cookie"))

    def _address(self) -> str:
        peer = (self.scope.get("client") or [None])[0]
        return client_address(peer, self._header("x-forwarded-for"))

    def _meta(self) -> dict[str, str]:
        """The headers in the spelling of WSGI."""
        names = {key.decode("latin-1") for key, _ in self.scope["headers"]}
        return {f"HTTP_{name.upper().replace('-', '_')}": self._header(name) or "" for name in names}

    def _check_origin(self) -> None:
        origin = self._header("origin")
        same_host = bool(origin) and _host_of(origin or "") == self._header("host")
        if origin and not same_host and origin not in settings.CORS_ORIGINS:
            raise Forbidden("origin not allowed")

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

    async def _recheck(self) -> None:
        """Closes when the credential no longer opens this socket; an unreachable database proves nothing."""
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                await in_thread(self._admit)()
            except Unauthorized:
                assert self._client is not None
                self._client.close(REVOKED)
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
