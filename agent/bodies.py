"""The body of a request to the agent, of announced length or in chunks, never more than allowed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from io import BufferedIOBase

LINE_LIMIT_BYTES = 1024


class BodyTooLarge(Exception):
    """More than the limit was announced, or arrived."""


class BrokenOff(Exception):
    """The sender left before the end, or the chunks make no sense."""


class Body:
    """`read(n)` gives at most n bytes, and none at the end."""

    def __init__(self, stream: BufferedIOBase, headers: Message, limit: int) -> None:
        """Raises BodyTooLarge, BrokenOff."""
        self._stream = stream
        self._limit = limit
        self._taken = 0
        announced = headers.get("Content-Length", "")
        if headers.get("Transfer-Encoding", "").lower() == "chunked":
            self._left, self._more = 0, self._next_chunk
        elif announced.isdecimal() and len(announced) <= 18:
            self._left, self._more = int(announced), self._nothing
        else:
            raise BrokenOff("a body needs a Content-Length")
        if self._left > limit:
            raise BodyTooLarge

    def read(self, count: int) -> bytes:
        """Raises BodyTooLarge, BrokenOff."""
        if not self._left and not self._more():
            return b""
        piece = self._stream.read(min(count, self._left))
        if not piece:
            raise BrokenOff("the body was cut off")
        self._left -= len(piece)
        self._taken += len(piece)
        if self._taken > self._limit:
            raise BodyTooLarge
        return piece

    def drop_rest(self, read_bytes: int = 65_536) -> None:
        """Take what is still coming: an answer sent before that would be lost in a reset."""
        with suppress(BodyTooLarge, BrokenOff):
            while self.read(read_bytes):
                pass

    _more: Callable[[], bool]

    def _nothing(self) -> bool:
        return False

    def _next_chunk(self) -> bool:
        if self._taken:
            self._stream.readline(LINE_LIMIT_BYTES)  # the end of the chunk before
        line = self._stream.readline(LINE_LIMIT_BYTES)
        try:
            self._left = int(line.split(b";")[0], 16)
        except ValueError:
            raise BrokenOff("a chunk has no size") from None
        if self._left:
            return True
        while self._stream.readline(LINE_LIMIT_BYTES).strip():
            pass  # trailers
        self._more = self._nothing
        return False
