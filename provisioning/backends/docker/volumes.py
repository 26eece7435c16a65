"""A workspace's named volumes: made with our labels, never used or removed when they are somebody else's."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from docker.errors import APIError, NotFound

from provisioning.backends.base import BackendError, ErrorClass, StartSpec, Storage
from provisioning.backends.docker.engine import Engine, log
from provisioning.backends.docker.labels import (
    labels,
    of_deployment,
    read,
    session_volume,
    volumes,
)

FOREIGN = "this workspace's storage belongs to another deployment on the same container engine"


class Volumes:
    def __init__(self, engine: Engine, instance: str) -> None:
        self._engine = engine
        self._instance = instance

    def ensure(self, name: str, spec: StartSpec) -> None:
        """Make the volume unless it is there. Raises BackendError(CONFLICT) for another deployment's."""
        made = self._engine.api.create_volume(name, labels=labels(spec, self._instance))
        if read(made.get("Labels"), self._instance) is None:  # the engine answers with the one that exists
            raise BackendError(ErrorClass.CONFLICT, FOREIGN, detail=name)

    def exists(self, name: str) -> bool:
        try:
            found = self._engine.api.inspect_volume(name)
        except NotFound:
            return False
        return read(found.get("Labels"), self._instance) is not None

    def list(self) -> list[Storage]:
        found = self._engine.api.volumes(filters=of_deployment(self._instance)).get("Volumes") or []
        listed = []
        for one in found:
            if marks := read(one.get("Labels"), self._instance):
                listed.append(Storage(marks.workspace_id, one["Name"], _moment(one.get("CreatedAt"))))
        return listed

    def reset_session(self, workspace_id: UUID) -> None:
        """Forget the session. One that cannot be removed is kept: the workspace must start all the same."""
        try:
            self._remove(session_volume(workspace_id))
        except APIError as error:
            log.warning("docker.session_kept", workspace_id=str(workspace_id), error=str(error))

    def remove(self, workspace_id: UUID) -> None:
        for name in volumes(workspace_id):
            self._remove(name)

    def _remove(self, name: str) -> None:
        if not self.exists(name):
            return
        try:
            self._engine.api.remove_volume(name)
        except NotFound:
            pass  # somebody else was faster


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
