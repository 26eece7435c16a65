"""A lean WebSocket listener: hands over each text frame with the time it arrived."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

HANDSHAKE_S = 10.0
_TEXT, _CLOSE, _PING = 0x1, 0x8, 0x9

Heard = Callable[[float, bytes], None]


def upgrade(token: str) -> bytes:
    """The handshake of a canvas that holds the operator's token."""
    return (
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YmVuY2ggYmVuY2ggYmVuYw==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


class Refused(Exception):
    """The handshake was answered with another status than 101; 0 stands for a broken connection."""

    def __init__(self, status: int) -> None:
        super().__init__(f"handshake answered with {status}")
        self.status = status


class Socket(asyncio.Protocol):
    """One open socket. Pings are answered; frames are unmasked and whole, as servers send them."""

    def __init__(self, request: bytes, heard: Heard) -> None:
        self._request = request
        self._heard = heard
        self._buffer = bytearray()
        self._admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, address: str, port: int, request: bytes, heard: Heard) -> Socket:
        """Raises Refused."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                _, socket = await loop.create_connection(lambda: cls(request, heard), address, port)
                await socket._admitted
        except (OSError, TimeoutError):
            raise Refused(0) from None
        return socket

    @property
    def is_open(self) -> bool:
        return not self.closed.done()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:

        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._admitted.done():
            self._admitted.set_exception(Refused(0))
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._admitted.done():
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if buffer[9:12] != b"101":
                self._admitted.set_exception(Refused(int(buffer[9:12])))
                self.close()
                return
            del buffer[: end + 4]
            self._admitted.set_result(None)
        now, at = time.time(), 0
        while (frame := _frame_at(buffer, at)) is not None:
            kind, start, at = frame
            if kind == _TEXT:
                self._heard(now, bytes(buffer[start:at]))
            elif kind == _PING:
                self._pong(bytes(buffer[start:at]))
            elif kind == _CLOSE:
                self.close()
        del buffer[:at]

    def _pong(self, payload: bytes) -> None:
        assert self._transport is not None
        mask = b"\0\0\0\0"  # clients must mask; nobody is protected here, so the mask changes nothing
        self._transport.write(bytes((0x8A, 0x80 | len(payload))) + mask + payload)


def _frame_at(buffer: bytearray, at: int) -> tuple[int, int, int] | None:
    """Kind, start and end of the payload of the frame at `at`; None while it is incomplete."""
    if len(buffer) - at < 2:
        return None
    kind, size, start = buffer[at] & 0x0F, buffer[at + 1] & 0x7F, at + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size, start = int.from_bytes(buffer[start : start + width], "big"), start + width
    return (kind, start, start + size) if len(buffer) >= start + size else None
