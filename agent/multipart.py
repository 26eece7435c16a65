"""`multipart/form-data` as it arrives: parts one after the other, their bytes in pieces, nothing kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value

READ_BYTES = 64 * 1024
HEADERS_LIMIT_BYTES = 16 * 1024
BOUNDARY_LIMIT = 200
_UNDECODABLE = re.compile("[\udc80-\udcff]")


class Malformed(Exception):
    """The body is no multipart form, or was cut."""


@dataclass(frozen=True, slots=True)
class Part:
    """`filename` is None for a plain field; `chunks` must be taken before the next part is asked for."""

    name: str
    filename: str | None
    content_type: str
    chunks: Iterator[bytes]


def boundary_of(content_type: str) -> str:
    """Raises Malformed."""
    kind, parameters = _parameters(content_type)
    boundary = parameters.get("boundary", "")
    if kind != "multipart/form-data" or not 1 <= len(boundary) <= BOUNDARY_LIMIT:
        raise Malformed("Content-Type is not multipart/form-data with a boundary")
    return boundary


def parts(read: Callable[[int], bytes], boundary: str) -> Iterator[Part]:
    """The parts of a body; `read(n)` gives at most n bytes and none at the end. Raises Malformed."""
    stream = _Stream(read)
    delimiter = b"\r\n--" + boundary.encode()
    for _ in stream.until(delimiter):
        pass  # what precedes the first part means nothing
    while True:
        match stream.take(2):
            case b"--":
                return
            case b"\r\n":
                headers = _headers(stream.header_lines())
            case _:
                raise Malformed("unexpected bytes after a boundary")
        parameters = _disposition(headers)
        chunks = stream.until(delimiter)
        yield Part(
            parameters.get("name", ""), parameters.get("filename"), headers.get("content-type", ""), chunks
        )
        for _ in chunks:
            pass  # of a part that nobody wanted


class _Stream:
    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b"\r\n"  # so that the first boundary looks like every other

    def until(self, marker: bytes) -> Iterator[bytes]:
        """What precedes `marker`, which is taken as well."""
        kept = len(marker) - 1
        while (index := self._buffer.find(marker)) < 0:
            if len(self._buffer) > kept:
                piece, self._buffer = self._buffer[:-kept], self._buffer[-kept:]
                yield piece
            self._more()
        piece, self._buffer = self._buffer[:index], self._buffer[index + len(marker) :]
        if piece:
            yield piece

    def take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        piece, self._buffer = self._buffer[:count], self._buffer[count:]
        return piece

    def header_lines(self) -> list[bytes]:
        block = b""
        while not block.endswith(b"\r\n\r\n") and block != b"\r\n":
            block += b"".join(self.until(b"\r\n")) + b"\r\n"
            if len(block) > HEADERS_LIMIT_BYTES:
                raise Malformed("the header of a part is too large")
        return [line for line in block.split(b"\r\n") if line]

    def _more(self) -> None:
        chunk = self._read(READ_BYTES)
        if not chunk:
            raise Malformed("the body ends before its last boundary")
        self._buffer += chunk


def _headers(lines: list[bytes]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise Malformed("a part has a header that is none")
        found[name.strip().lower().decode("latin-1")] = _text(value.strip())
    return found


def _disposition(headers: dict[str, str]) -> dict[str, str]:
    kind, parameters = _parameters(headers.get("content-disposition", ""))
    if kind != "form-data":
        raise Malformed("a part has no Content-Disposition of form data")
    return parameters


def _text(raw: bytes) -> str:
    """Each byte that is no UTF-8 becomes one character."""
    return _UNDECODABLE.sub("\ufffd", raw.decode(errors="surrogateescape"))


def _parameters(header: str) -> tuple[str, dict[str, str]]:
    """The value and its parameters, those of RFC 2231 decoded."""
    if ";" not in header:
        return header.strip().lower(), {}
    message = Message()
    try:
        message["content-type"] = header
        (kind, _), *given = message.get_params(failobj=[("", "")])
        return kind.lower(), {name: collapse_rfc2231_value(value) for name, value in given if name}
    except (ValueError, LookupError) as error:
        raise Malformed(f"a header cannot be read: {error}") from None
