"""Fetching staged files: one client for a batch; a connection serves a fetch and its acknowledgement."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse

from agent.client import Platform
from agent.folder import TooLarge, UploadFolder, stored_name, uri_of

log = logging.getLogger("agent")

GET_TIMEOUT_S = 60.0
FILE_LIMIT_BYTES = 25 * 1024 * 1024
READ_BYTES = 256 * 1024


class NotFetched(Exception):
    """The file could not be had; it stays unacknowledged."""


class Gone(Exception):
    """The control plane does not hold the file (any more)."""


class FileClient:
    """Connections to the control plane that threads share; each is used by one thread at a time."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._idle: list[HTTPConnection] = []
        self._lock = threading.Lock()

    def fetch(self, file_id: str, name: str, folder: UploadFolder) -> str:
        """Write the file, unless it is here already, then acknowledge it; its local uri.

        The acknowledgement comes last: a failed write leaves the file to be fetched again. Raises Gone,
        NotFetched.
        """
        with self._connection() as connection:
            digits = file_id.replace("-", "").lower()
            uri = folder.find(digits)  # fetched before a crash
            if uri is None:
                self._download(connection, file_id, digits, name, folder)
                uri = uri_of(stored_name(digits, name))
            self._acknowledge(connection, file_id)
            return uri

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _download(
        self, connection: HTTPConnection, file_id: str, digits: str, name: str, folder: UploadFolder
    ) -> None:
        try:
            response = self._ask(connection, "GET", file_id, "content")
            if response.status == 404:
                response.read()
                raise Gone
            if response.status != 200:
                response.read()
                raise NotFetched(f"the control plane answered {response.status}")
            with folder.new_file(digits, name, limit=FILE_LIMIT_BYTES) as draft:
                while chunk := response.read(READ_BYTES):
                    draft.write(chunk)
                announced = response.getheader("Content-Length")
                if announced is not None and draft.size != int(announced):
                    raise NotFetched("the answer was cut off")
        except TooLarge:
            raise NotFetched(f"the file is above {FILE_LIMIT_BYTES} bytes") from None
        except (OSError, HTTPException, ValueError) as error:
            raise NotFetched(str(getattr(error, "strerror", None) or type(error).__name__)) from None

    def _acknowledge(self, connection: HTTPConnection, file_id: str) -> None:
        """The file is usable whatever comes of it; unacknowledged it expires."""
        try:
            response = self._ask(connection, "POST", file_id, "ack")
            response.read()
            if response.status >= 400:
                log.warning("uploads: acknowledgement of %s answered %d", file_id, response.status)
        except (OSError, HTTPException) as error:
            connection.close()
            log.warning("uploads: acknowledgement of %s failed: %s", file_id, type(error).__name__)

    def _ask(self, connection: HTTPConnection, method: str, file_id: str, what: str) -> HTTPResponse:
        path = self._platform.own(f"pending-uploads/{file_id}/{what}")
        return self._platform.send(connection, method, path)

    @contextmanager
    def _connection(self) -> Iterator[HTTPConnection]:
        with self._lock:
            connection = self._idle.pop() if self._idle else self._platform.connection(GET_TIMEOUT_S)
        try:
            yield connection
        except Gone:
            self._give_back(connection)  # answered in full
            raise
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)

    def _give_back(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._idle.append(connection)
