"""What every WebSocket shares: who is calling is settled before the upgrade, and again while it is open.

Source: docs/reference/events.md, The socket.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import structlog
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

from access.client_address import client_address
from access.credentials import Principal, resolve
from access.rate_limits import charge_handshake, count_failure
from access.tenant_guard import check_tenant
from config.errors import DomainError, Forbidden, Unauthorized
from config.http import to_json
from config.threads import in_thread

log = structlog.get_logger(__name__)

SUBPROTOCOL, AUTH_PREFIX = "molecule-ws", "molecule-auth."
MAX_HEX_CHARS = 8192
# A revoked credential loses its socket within a minute, though a session's verdict is kept for 30 s.
RECHECK_S = 25.0
REVOKED = 4401


class GuardedSocket(AsyncWebsocketConsumer):
    """A subclass says who may enter (`admit`), what must be had before (`prepare`), what begins then
    (`opened`), and what ends it.
    """

    def admit(self) -> None:
        """In a thread, at the handshake and every RECHECK_S. Raises DomainError; Unauthorized closes."""
        raise NotImplementedError

    def prepare(self) -> None:
        """In a thread, after the first admission and before the upgrade. Raises DomainError."""

    async def opened(self) -> None:
        """The upgrade was made."""

    async def revoked(self) -> None:
        """The credential no longer opens this socket."""
        await self.close(code=REVOKED)

    async def connect(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        try:
            await in_thread(self._enter)()
        except DomainError as refusal:
            log.info("socket.refused", reason=refusal.text)
            await self._refuse(refusal)
            return
        offered = self.scope.get("subprotocols") or []
        await self.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        await self.opened()
        self.tasks.append(asyncio.create_task(self._recheck()))

    async def disconnect(self, code: int) -> None:
        for task in self.tasks:
            task.cancel()

    def principal(self) -> Principal:
        """Raises Unauthorized for a credential in two places, or one that cannot be read."""
        header = self.header("authorization")
        offered = [one for one in self.scope.get("subprotocols") or [] if one.startswith(AUTH_PREFIX)]
        if len(offered) > 1 or (offered and header):
            raise Unauthorized("invalid WebSocket credential")
        if offered:
            header = f"Bearer {_from_hex(offered[0].removeprefix(AUTH_PREFIX))}"
        return resolve(header, self._address(), self.header("cookie"))

    def header(self, name: str) -> str | None:
        found = [
            value.decode("latin-1") for key, value in self.scope["headers"] if key.decode("latin-1") == name
        ]
        return ",".join(found) or None

    def check_origin(self) -> None:
        """Raises Forbidden for a page of somebody else."""
        origin = self.header("origin")
        same_host = bool(origin) and _host_of(origin or "") == self.header("host")
        if origin and not same_host and origin not in settings.CORS_ORIGINS:
            raise Forbidden("origin not allowed")

    def _enter(self) -> None:
        """The first admission, which is a request: it is for this tenant, and it is charged to its caller."""
        try:
            check_tenant(self.scope["path"], self._meta())
            charge_handshake(self.principal(), self._address())
            self.admit()
        except Unauthorized:
            count_failure("socket", self._address())
            raise
        self.prepare()

    async def _recheck(self) -> None:
        """An unreachable database proves nothing."""
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                await in_thread(self.admit)()
            except Unauthorized:
                await self.revoked()
                return
            except DomainError:
                continue

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

    def _address(self) -> str:
        peer = (self.scope.get("client") or [None])[0]
        return client_address(peer, self.header("x-forwarded-for"))

    def _meta(self) -> dict[str, str]:
        """The headers in the spelling of WSGI."""
        names = {key.decode("latin-1") for key, _ in self.scope["headers"]}
        return {f"HTTP_{name.upper().replace('-', '_')}": self.header(name) or "" for name in names}


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
