"""A lean HTTP/1.1 client: requests are bytes made beforehand, an answer is a status and a body.

A general client costs more per request than the server under test; this one costs some 30 microseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import orjson

CLOSED = 599  # stands for a connection that broke instead of an answer
_HEAD_END = b"\r\n\r\n"


class Answer(NamedTuple):
    """`status` is CLOSED when the connection broke; `body` is as it came, possibly compressed."""

    status: int
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


def request(
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of one request; `body` is sent as JSON, bytes as they are under the type in `headers`."""
    content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += [] if isinstance(body, bytes) else ["Content-Type: application/json"]
        lines.append(f"Content-Length: {len(content)}")
    elif method not in {"GET", "HEAD", "DELETE"}:
        lines.append("Content-Length: 0")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Connection(asyncio.Protocol):
    """One keep-alive connection, opened on first use and again after it broke; one request at a time."""

    def __init__(self, address: str, port: int) -> None:
        self._place = address, port
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._body_at = 0
        self._length: int | None = None
        self._is_last = False

    async def ask(self, request: bytes) -> Answer:
        """The answer, or one with the status CLOSED; never raises for the network."""
        if self._transport is None:
            try:
                await self._loop.create_connection(lambda: self, *self._place)
            except OSError:
                return Answer(CLOSED, b"")
        assert self._transport is not None
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:

        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._finish(Answer(CLOSED, b""))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._body_at:
            end = buffer.find(_HEAD_END)
            if end < 0:
                return
            self._body_at = end + len(_HEAD_END)
            head = bytes(buffer[:end]).lower()
            self._length = _declared_length(head)
            self._is_last = b"\r\nconnection: close" in head
        at = self._body_at
        if self._length is not None:
            body = bytes(buffer[at : at + self._length]) if len(buffer) - at >= self._length else None
        else:
            body = unchunked(buffer, at)
        if body is not None:
            answer = Answer(int(buffer[9:12]), body)
            if self._is_last:
                self.close()
            self._finish(answer)

    def _finish(self, answer: Answer) -> None:
        self._buffer.clear()
        self._body_at = 0
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


def _declared_length(head: bytes) -> int | None:
    """Bytes of the body that follows `head` (lower case); None when it comes in chunks."""
    if head[9:12] in {b"204", b"304"}:
        return 0
    start = head.find(b"\r\ncontent-length:")
    if start < 0:
        return None if b"\r\ntransfer-encoding: chunked" in head else 0
    return int(head[start + 17 :].split(b"\r\n", 1)[0])


def unchunked(buffer: bytearray, at: int) -> bytes | None:
    """The body of the chunks that begin at `at`; None while the last one is missing."""
    parts: list[bytes] = []
    while True:
        end = buffer.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(bytes(buffer[at:end]).split(b";")[0], 16)
        at = end + 2
        if len(buffer) < at + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(bytes(buffer[at : at + size]))
        at += size + 2
