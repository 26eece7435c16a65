"""The connection to the container engine: every call has a time limit, every failure is a sentence.

Source: docs/reference/docker.md, When the engine does not answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import docker
import requests
import structlog
from docker.errors import APIError, DockerException

from provisioning.backends.base import BackendError, ErrorClass

log = structlog.get_logger(__name__)

CALL_S = 30  # without a byte from the engine
PING_S = 2
FIRST_S = 5  # a busy machine may take its time over a ping
TRUSTED_S = 5.0  # an engine that answered a moment ago is not asked whether it answers
STREAM_S = 240  # a pull or a build that makes no progress for so long is given up
UNREACHABLE = "the container engine does not answer; start it, or set PROVISIONER to another backend"
# urllib3 passes some of the engine's broken answers through as they are.
NO_ANSWER = (requests.RequestException, OSError)


class Engine:
    """One client per time limit, made at the first use: an engine may come later than we do.

    `address` is the engine's; None: DOCKER_HOST, else the usual socket. Safe for threads.
    """

    def __init__(self, address: str | None = None, *, call_s: float = CALL_S) -> None:
        self._address = address
        self._call_s = call_s
        self._clients: dict[float, docker.APIClient] = {}
        self._answered_at = -TRUSTED_S
        self._cpus: int | None = None
        self._mutex = threading.Lock()

    @property
    def api(self) -> docker.APIClient:
        """Raises DockerException or what NO_ANSWER names when there is no engine: within FIRST_S, though
        a call that has begun may be silent for longer.
        """
        if time.monotonic() - self._answered_at > TRUSTED_S:
            self._client(FIRST_S).ping()
            self._answered_at = time.monotonic()
        return self._client(self._call_s)

    @property
    def streaming(self) -> docker.APIClient:
        """For pulls and builds, which may be silent for longer."""
        return self._client(STREAM_S)

    def cpus(self) -> int:
        """How many processors the engine has. Raises DockerException."""
        if self._cpus is None:
            self._cpus = int(self.api.info()["NCPU"])
        return self._cpus

    def close(self) -> None:
        with self._mutex:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _client(self, timeout_s: float) -> docker.APIClient:
        client = self._clients.get(timeout_s)
        if client is None:
            made = connect(self._address, timeout_s)  # asks the engine for its version: others do not wait
            with self._mutex:
                client = self._clients.setdefault(timeout_s, made)
            if client is not made:
                made.close()
        return client


def connect(address: str | None, timeout_s: float) -> docker.APIClient:
    """Raises DockerException."""
    if address:
        return docker.APIClient(base_url=address, version="auto", timeout=timeout_s)  # type: ignore[arg-type]
    return docker.from_env(version="auto", timeout=timeout_s).api  # type: ignore[arg-type]


def answers(address: str | None = None) -> bool:
    """Whether an engine answers a ping within a short time."""
    try:
        client = connect(address, PING_S)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (DockerException, *NO_ANSWER) as error:
        log.info("docker.no_answer", error=str(error))
        return False


@contextmanager
def explained(otherwise: str, error_class: ErrorClass = ErrorClass.INTERNAL) -> Iterator[None]:
    """Turn the engine's errors into a BackendError; people read `otherwise` when it refused a call."""
    try:
        yield
    except APIError as error:
        # Its own trouble may pass; what it refuses, it will refuse again.
        raise BackendError(
            error_class, otherwise, detail=detail_of(error), retryable=bool(error.is_server_error())
        ) from error
    except (DockerException, *NO_ANSWER) as error:
        raise BackendError(ErrorClass.TRANSIENT, UNREACHABLE, detail=str(error), retryable=True) from error


def detail_of(error: APIError) -> str:
    return str(error.explanation or error)
