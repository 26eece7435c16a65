"""One command inside a running container: bytes in, bytes out, and never longer than a limit."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import docker

from provisioning.backends.base import BackendError, ErrorClass

LIMIT_S = 30.0
STDOUT = 1
HEADER = struct.Struct(">BxxxL")  # of each piece: which stream, how many bytes
TOO_SLOW = "the workspace's container did not answer in time"


@dataclass(frozen=True)
class Ended:
    exit_code: int
    output: bytes
    errors: bytes


def run(
    api: docker.APIClient,
    container_id: str,
    command: Sequence[str],
    given: bytes = b"",
    *,
    limit_s: float = LIMIT_S,
) -> Ended:
    """Run `command` as the container's own account with `given` on its standard input.

    Root would have no more rights there: the capabilities of a container without root are gone for good.

    Raises APIError (the container does not run), BackendError(TIMEOUT).
    """
    made = api.exec_create(container_id, list(command), stdin=True)
    stream = api.exec_start(made["Id"], socket=True)
    deadline = time.monotonic() + limit_s
    try:
        # The SDK's own reader waits without a limit.
        connection: Any = getattr(stream, "_sock", stream)
        connection.settimeout(limit_s)
        connection.sendall(given)
        collected = {STDOUT: bytearray(), 2: bytearray()}
        for kind, piece in _pieces(connection, deadline):
            collected[kind] += piece
    except TimeoutError as error:
        raise BackendError(ErrorClass.TIMEOUT, TOO_SLOW, retryable=True) from error
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended before it read everything; its exit code says why
    finally:
        stream.close()
    code = api.exec_inspect(made["Id"])["ExitCode"]
    return Ended(-1 if code is None else int(code), bytes(collected[STDOUT]), bytes(collected[2]))


def _pieces(connection: socket.socket, deadline: float) -> Iterator[tuple[int, bytes]]:
    while head := _exactly(connection, HEADER.size, deadline):
        kind, size = HEADER.unpack(head)
        yield kind, _exactly(connection, size, deadline)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    """`size` bytes; fewer only at the end of the stream. Raises TimeoutError."""
    found = bytearray()
    while len(found) < size:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        piece = connection.recv(min(size - len(found), 1 << 16))
        if not piece:
            return b"" if not found or size == HEADER.size else bytes(found)
        found += piece
    return bytes(found)
