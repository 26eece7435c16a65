"""A workspace's files, through its container while it runs, else through a helper on its config volume.

Source: docs/reference/docker.md, Files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from docker.errors import APIError, NotFound
from docker.types import Mount

from provisioning.backends import folder
from provisioning.backends.base import (
    NO_STORAGE,
    BackendError,
    Entry,
    ErrorClass,
    File,
    FileError,
    FileProblem,
)
from provisioning.backends.docker import exec as inside_exec
from provisioning.backends.docker import found
from provisioning.backends.docker.choices import Choices
from provisioning.backends.docker.engine import Engine, explained, log
from provisioning.backends.docker.images import Images
from provisioning.backends.docker.labels import HELPER, INSTANCE, WORKSPACE, configs_volume, container_name
from provisioning.backends.docker.volumes import Volumes
from provisioning.backends.files import PROBLEMS, checked_name

PROGRAM = Path(folder.__file__).read_text()
FOLDERS = {
    "/configs": ("/configs", ""),
    "/workspace": ("/workspace", ""),
    "/home": ("/home", ""),
    "/plugins": ("/configs", "plugins/"),
}  # where each root begins, and the way on from there, which the agent could exchange for a link
STORED = frozenset({"/configs", "/plugins"})  # what can be reached while nothing runs
HELPER_LIVES_S = 120
FAILED = "the workspace's files could not be reached"


class Files:
    """Each verb is one program inside the container; its exit code decides."""

    def __init__(self, engine: Engine, images: Images, volumes: Volumes, choices: Choices) -> None:
        self._engine = engine
        self._images = images
        self._volumes = volumes
        self._choices = choices

    def list(self, workspace_id: UUID, root: str, path: str, depth: int) -> list[Entry]:
        printed = self._run(workspace_id, root, "list", _below(root, ""), path, str(depth))
        return [Entry(name, size, is_folder) for name, size, is_folder in json.loads(printed)]

    def read(self, workspace_id: UUID, root: str, path: str, limit: int) -> bytes:
        return self._run(workspace_id, root, "read", _below(root, path), str(limit))

    def write(self, workspace_id: UUID, root: str, files: Mapping[str, File]) -> None:
        head = [
            [_below(root, str(checked_name(name))), file.mode, file.seed, len(file.content)]
            for name, file in files.items()
        ]
        given = json.dumps(head).encode() + b"\n" + b"".join(file.content for file in files.values())
        self._run(workspace_id, root, "write", str(len(given)), given=given)

    def delete(self, workspace_id: UUID, root: str, path: str, *, recursive: bool) -> None:
        checked_name(path)  # a root itself is never deleted
        self._run(workspace_id, root, "delete", _below(root, path), str(int(recursive)))

    def end_helpers(self, workspace_id: UUID) -> None:
        """Helpers still look into a volume that is about to be removed."""
        mine = [f"{HELPER}=true", f"{INSTANCE}={self._choices.instance}", f"{WORKSPACE}={workspace_id}"]
        for one in self._engine.api.containers(all=True, filters={"label": mine}):
            self._end(one["Id"])

    def _run(self, workspace_id: UUID, root: str, verb: str, *words: str, given: bytes = b"") -> bytes:
        """Raises FileError, BackendError.

        A restart may take the container away under the call: every verb may be repeated, and is, once. When
        none runs then, what failed is told as storage that cannot be reached now.
        """
        try:
            return self._tried(workspace_id, root, verb, *words, given=given)
        except FileError:
            raise
        except BackendError as error:
            log.warning("docker.files_again", workspace_id=str(workspace_id), reason=error.detail)
        try:
            return self._tried(workspace_id, root, verb, *words, given=given)
        except FileError:
            raise
        except BackendError as error:
            if self._running(workspace_id):
                raise
            raise FileError(FileProblem.UNAVAILABLE, NO_STORAGE, detail=error.detail) from error

    def _tried(self, workspace_id: UUID, root: str, verb: str, *words: str, given: bytes = b"") -> bytes:
        command = ["python3", "-I", "-c", PROGRAM, verb, FOLDERS[root][0], *words]
        with explained(FAILED), self._place(workspace_id, root) as container_id:
            ended = inside_exec.run(self._engine.api, container_id, command, given)
        if ended.exit_code == folder.OK:
            return ended.output
        if ended.exit_code in PROBLEMS:
            problem, message = PROBLEMS[ended.exit_code]
            raise FileError(problem, message)
        detail = (ended.errors or ended.output).decode(errors="replace")[-500:]
        if ended.exit_code == folder.REFUSED:
            raise FileError(FileProblem.UNAVAILABLE, NO_STORAGE, detail=detail)
        raise BackendError(ErrorClass.INTERNAL, FAILED, detail=f"exit {ended.exit_code}: {detail}")

    @contextmanager
    def _place(self, workspace_id: UUID, root: str) -> Iterator[str]:
        """A container that sees the workspace's files. Raises FileError where there is none."""
        if running := self._running(workspace_id):
            yield running
            return
        if root not in STORED or not self._volumes.exists(configs_volume(workspace_id)):
            raise FileError(FileProblem.UNAVAILABLE, NO_STORAGE)
        helper = self._helper(workspace_id)
        try:
            self._engine.api.start(helper)
            yield helper
        finally:
            self._end(helper)

    def _running(self, workspace_id: UUID) -> str | None:
        try:
            inspected = self._engine.api.inspect_container(container_name(workspace_id))
        except NotFound:
            return None
        current = found.read(inspected, self._choices)
        return current.container_id if current.marks and current.status == "running" else None

    def _helper(self, workspace_id: UUID) -> str:
        """A container of the default image, which is local: no registry is asked. It ends by itself."""
        api = self._engine.api
        marks = {HELPER: "true", INSTANCE: self._choices.instance, WORKSPACE: str(workspace_id)}
        made = api.create_container(
            self._images.helper(),
            command=["python3", "-c", f"import time; time.sleep({HELPER_LIVES_S})"],
            labels=marks,
            user="0:0",
            host_config=api.create_host_config(
                mounts=[Mount("/configs", configs_volume(workspace_id), type="volume")],
                network_mode="none",
                auto_remove=True,
                init=True,
            ),
        )
        return str(made["Id"])

    def _end(self, container_id: str) -> None:
        try:
            self._engine.api.remove_container(container_id, force=True)
        except NotFound:
            pass
        except APIError as error:
            if error.status_code != 409:  # it removes itself already
                log.warning("docker.helper_kept", container=container_id, error=str(error))


def _below(root: str, path: str) -> str:
    return FOLDERS[root][1] + path
