"""Whether this server runs in a container of the engine it talks to, or beside it.

Source: docs/reference/docker.md, Addresses.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

from docker.errors import NotFound

from provisioning.backends.docker.engine import Engine

MARK = Path("/.dockerenv")
MOUNTS = Path("/proc/self/mountinfo")
OWN_FOLDER = re.compile(r"/containers/([0-9a-f]{64})/")
YES = frozenset({"1", "true", "yes", "on"})


class Whereabouts:
    """`told` decides; when it is empty the engine does, asked once: it knows its own containers.

    The mark alone is not enough: a server and an engine may share one container, or one virtual machine.
    """

    def __init__(self, engine: Engine, told: str) -> None:
        self._engine = engine
        told = told.strip().lower()
        self._answer = told in YES if told else (None if MARK.exists() else False)

    def __call__(self) -> bool:
        """Raises DockerException when the engine had to be asked and does not answer."""
        if self._answer is None:
            self._answer = any(self._is_container(name) for name in _own_names())
        return self._answer

    def _is_container(self, name: str) -> bool:
        try:
            self._engine.api.inspect_container(name)
        except NotFound:
            return False
        return True


def _own_names() -> list[str]:
    mounts = MOUNTS.read_text() if MOUNTS.exists() else ""
    return [*OWN_FOLDER.findall(mounts)[:1], socket.gethostname()]
