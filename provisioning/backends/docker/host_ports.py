"""Ports for containers in the host's network, which cannot be published and must not meet.

Source: docs/reference/docker.md, Tier 4.
"""

from __future__ import annotations

import socket
from uuid import UUID

from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.docker.choices import Choices
from provisioning.backends.docker.engine import Engine
from provisioning.backends.docker.labels import PORT


class HostPorts:
    def __init__(self, engine: Engine, choices: Choices) -> None:
        self._engine = engine
        self._choices = choices

    def allot(self, workspace_id: UUID) -> int:
        """A port that no container has and nobody listens on.

        Workspaces begin their search in different places, so they hardly meet.
        """
        taken = {port for _, port in self._holders()}
        ports = self._choices.ports
        begin = workspace_id.int % len(ports) if ports else 0
        for step in range(len(ports)):
            port = ports[(begin + step) % len(ports)]
            if port not in taken and self._is_free(port):
                return port
        raise BackendError(
            ErrorClass.CAPACITY, "no port is left for another tier 4 workspace (MOLECULE_T4_PORT_RANGE)"
        )

    def is_ours(self, container_id: str, port: int) -> bool:
        """Of two containers that were allotted one port at once, exactly one keeps it."""
        holders = [holder for holder, held in self._holders() if held == port]
        return container_id == min(holders, default="")

    def _holders(self) -> list[tuple[str, int]]:
        """Every container with an allotted port, of any deployment: they share the host."""
        listed = self._engine.api.containers(all=True, filters={"label": [PORT]})
        return [(one["Id"], int(one["Labels"][PORT])) for one in listed]

    def _is_free(self, port: int) -> bool:
        if self._choices.is_in_container():
            return True  # the host's ports cannot be seen from here
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return False
        return True
