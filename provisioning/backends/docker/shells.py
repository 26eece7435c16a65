"""A terminal in a workspace's container: one `exec` with a TTY, ended with everything that was started in it.

Source: docs/reference/docker.md, Terminal.
"""

from __future__ import annotations

import socket
from typing import Any
from uuid import uuid4

import docker
import structlog
from docker.errors import DockerException

from provisioning.backends.base import BackendError
from provisioning.backends.docker import exec as commands
from provisioning.backends.docker.engine import NO_ANSWER

log = structlog.get_logger(__name__)

MARK = "MOLECULE_TERMINAL"  # in the environment of the shell, and so of all that it starts
PIECE_BYTES = 64 * 1024
CLOSING_S = 10.0
SHELL = ["/bin/sh", "-c", "[ -x /bin/bash ] && exec /bin/bash; exec /bin/sh"]
# Run by the container's Python: the engine itself lets an `exec` live on when its stream ends.
ENDING = """
import os, signal, sys
for process in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{process}/environ", "rb") as environment:
            if sys.argv[1].encode() in environment.read().split(bytes(1)):
                os.kill(int(process), signal.SIGKILL)
    except OSError:
        pass
"""


class DockerShell:
    def __init__(self, api: docker.APIClient, container_id: str, *, idle_s: int) -> None:
        """Raises DockerException. A shell left by a server that died ends by itself after `idle_s`."""
        self._api, self._container_id = api, container_id
        self._mark = f"{MARK}={uuid4().hex}"
        environment = [self._mark, "TERM=xterm-256color", f"TMOUT={idle_s}"]
        made = api.exec_create(container_id, SHELL, stdin=True, tty=True, environment=environment)
        self._stream = api.exec_start(made["Id"], socket=True, tty=True)
        self._connection: Any = getattr(self._stream, "_sock", self._stream)
        self._connection.settimeout(None)

    def read(self) -> bytes:
        try:
            piece: bytes = self._connection.recv(PIECE_BYTES)
            return piece
        except OSError:
            return b""

    def write(self, given: bytes) -> None:
        self._connection.sendall(given)

    def close(self) -> None:
        try:
            command = ["python3", "-c", ENDING, self._mark]
            commands.run(self._api, self._container_id, command, limit_s=CLOSING_S)
        except (BackendError, DockerException, *NO_ANSWER) as error:  # the container has gone, most likely
            log.info("terminal.not_ended", container=self._container_id, error=str(error))
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._stream.close()
