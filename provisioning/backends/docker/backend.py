"""Each workspace is a container. The engine is the truth: what runs is read from its labels, and the unique
name of a container decides between two workers that start the same workspace.

Source: docs/reference/docker.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog
from docker.errors import APIError, ImageNotFound, NotFound

from config.locks import outside_transaction, try_lock
from provisioning.backends.base import (
    BackendError,
    Bare,
    Compute,
    ComputeState,
    Entry,
    ErrorClass,
    File,
    ImageInfo,
    NotRunning,
    Plan,
    Shell,
    Started,
    StartSpec,
    Storage,
)
from provisioning.backends.docker import found, shape
from provisioning.backends.docker.choices import Choices
from provisioning.backends.docker.engine import Engine, detail_of, explained
from provisioning.backends.docker.files import Files
from provisioning.backends.docker.found import Found
from provisioning.backends.docker.host_ports import HostPorts
from provisioning.backends.docker.images import Images
from provisioning.backends.docker.labels import container_name, of_deployment
from provisioning.backends.docker.progress import NOT_AVAILABLE
from provisioning.backends.docker.seeding import seed_configs
from provisioning.backends.docker.shells import DockerShell
from provisioning.backends.docker.volumes import Volumes
from provisioning.backends.tiers import TierLimits

log = structlog.get_logger(__name__)

FAILED = "workspace start failed"
NOT_STOPPED = "the workspace's container could not be stopped"
NEWER = "a newer start of this workspace is already running"
FOREIGN = "a container of another deployment on the same engine has this workspace's name"
BRING_UP_S = 30.0  # a container of ours that is not started after this was left by a worker that died
START_S = 180.0
REMOVAL_S = 60.0
NETWORK_S = 30.0
POLL_S = 0.1
NO_RESTART: Any = {"Name": "no"}
PORT_TRIES, PORT_PAUSE_S = 3, 0.5


class DockerBackend(Bare):
    label = "docker"
    capabilities = frozenset({"volumes", "exec", "files", "logs", "image_cache", "reset_session", "shell"})

    def __init__(
        self, engine: Engine, images: Images, choices: Choices, *, bring_up_s: float = BRING_UP_S
    ) -> None:
        self._engine = engine
        self._images = images
        self._choices = choices
        self._bring_up_s = bring_up_s
        self._volumes = Volumes(engine, choices.instance)
        self._ports = HostPorts(engine, choices)
        self._files = Files(engine, images, self._volumes, choices)

    # --- Starting

    def ensure_image(self, spec: StartSpec) -> ImageInfo:
        outside_transaction()
        return self._images.ensure(spec)

    def start(self, spec: StartSpec) -> Started:
        outside_transaction()
        limits = self._choices.limits(spec.tier)
        shape.check_names(spec)
        if spec.image is None:
            spec = replace(spec, image=self._images.ensure(spec).reference)
        deadline = time.monotonic() + START_S
        with explained(FAILED, ErrorClass.BOOT_FAILED):
            while time.monotonic() < deadline:
                current = self._current(spec)
                if current is None:
                    if started := self._create(spec, limits):
                        return started
                elif current.runs:
                    if started := self._adopt(current.container_id):
                        return started
                elif current.is_new and current.age_s < self._bring_up_s:
                    pass  # another worker is about to start it
                else:
                    self._remove(current.container_id)
                    continue
                time.sleep(POLL_S)
        raise BackendError(ErrorClass.TIMEOUT, FAILED, detail="others kept starting it", retryable=True)

    def _current(self, spec: StartSpec) -> Found | None:
        """The container of this generation, after older ones are gone. Raises BackendError(CONFLICT)."""
        current = self._named(spec.workspace_id)
        if current is None:
            return None
        if current.marks is None:
            raise BackendError(ErrorClass.CONFLICT, FOREIGN, detail=current.container_id)
        if current.marks.generation > spec.generation:
            raise BackendError(ErrorClass.CONFLICT, NEWER)
        if current.marks.generation < spec.generation:
            self._remove(current.container_id)
            return None
        return current

    def _adopt(self, container_id: str) -> Started | None:
        """None when it has been removed since we looked."""
        try:
            return self._started(container_id, adopted=True)
        except NotFound:
            return None

    def _create(self, spec: StartSpec, limits: TierLimits) -> Started | None:
        """None: somebody else has taken the name, or removed what we made; look again."""
        self._ensure_network(limits)
        if spec.reset_session or spec.environment.get("WORKSPACE_RESET_SESSION", "").lower() == "true":
            self._volumes.reset_session(spec.workspace_id)
        for name in shape.volumes_of(spec, limits):
            self._volumes.ensure(name, spec)
        port = self._ports.allot(spec.workspace_id) if limits.has_host_network else None
        arguments = shape.container(self._engine, spec, limits, self._choices, port)
        try:
            made = self._engine.api.create_container(**arguments, **self._images.platform())
        except APIError as error:
            if error.status_code == 409:
                return None
            raise self._explained_refusal(error) from error
        container_id = made["Id"]
        try:
            if port is not None and not self._ports.is_ours(container_id, port):
                self._remove(container_id)
                return None
            seed_configs(self._engine.api, container_id, spec, limits, port)
            self._engine.api.start(container_id)
            return self._started(container_id, adopted=False)
        except NotFound:
            if not self._exists(container_id):  # a newer start, or a stop, has removed it
                return None
            self._discard(container_id)
            raise
        except BaseException:  # told to stop in the middle as well: nothing stays behind half made
            self._discard(container_id)
            raise

    def _started(self, container_id: str, *, adopted: bool) -> Started:
        """Raises NotFound, BackendError."""
        for _ in range(PORT_TRIES):
            inspected = self._engine.api.inspect_container(container_id)
            current = found.read(inspected, self._choices)
            if current.url:
                internal_url = found.internal_url(inspected, self._choices)
                return Started(container_id, current.url, internal_url, current.state, adopted=adopted)
            if current.state == ComputeState.NOT_RUNNING:
                break
            time.sleep(PORT_PAUSE_S)
        detail = str(inspected.get("State"))
        raise BackendError(ErrorClass.BOOT_FAILED, FAILED, detail=f"no address: {detail}"[:500])

    def _ensure_network(self, limits: TierLimits) -> None:
        if limits.has_host_network:
            return
        name, api = self._choices.network, self._engine.api
        deadline = time.monotonic() + NETWORK_S
        while not any(one["Name"] == name for one in api.networks(names=[name])):
            with try_lock(f"docker-network:{name}") as mine:  # the engine itself would make two of one name
                if mine and not any(one["Name"] == name for one in api.networks(names=[name])):
                    api.create_network(name, driver="bridge", check_duplicate=True)
            if time.monotonic() > deadline:
                raise BackendError(ErrorClass.TIMEOUT, FAILED, detail=f"network {name}", retryable=True)
            time.sleep(0 if mine else POLL_S)

    def _explained_refusal(self, error: APIError) -> Exception:
        if isinstance(error, ImageNotFound):  # removed since it was found
            return BackendError(
                ErrorClass.IMAGE_UNAVAILABLE, NOT_AVAILABLE, detail=detail_of(error), retryable=True
            )
        text = str(error.explanation or "")
        if "bind source path does not exist" in text:
            message = "the workspace directory does not exist on the container engine's host"
            return BackendError(ErrorClass.INVALID_SPEC, message, detail=text)
        return error

    # --- Stopping

    def stop(self, workspace_id: UUID, below_generation: int | None = None) -> None:
        outside_transaction()
        with explained(NOT_STOPPED):
            current = self._named(workspace_id)
            if current is None or current.marks is None:
                return
            if below_generation is None or current.marks.generation < below_generation:
                self._end(current.container_id)

    def stop_compute(self, workspace_id: UUID, compute_id: str) -> None:
        outside_transaction()
        with explained(NOT_STOPPED):
            current = self._named(workspace_id)
            if current and current.marks and current.container_id == compute_id:
                self._end(compute_id)

    def _end(self, container_id: str) -> None:
        """Ask it to end, then make it; success is that it is gone."""
        api, grace_s = self._engine.api, self._choices.stop_grace_s
        try:
            api.update_container(container_id, restart_policy=NO_RESTART)
            api.stop(container_id, timeout=grace_s)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409 and not error.is_server_error():
                raise
            log.info("docker.stop_refused", container=container_id, error=str(error))
        self._remove(container_id)

    def _remove(self, container_id: str) -> None:
        """Return once it is gone, whoever removes it. Raises APIError, BackendError."""
        deadline = time.monotonic() + REMOVAL_S
        while True:
            try:
                self._engine.api.remove_container(container_id, force=True, v=True)
                return
            except NotFound:
                return
            except APIError as error:
                if error.status_code != 409:  # its removal is in progress
                    raise
            if time.monotonic() > deadline:
                raise BackendError(ErrorClass.TRANSIENT, NOT_STOPPED, retryable=True)
            time.sleep(POLL_S)

    def _discard(self, container_id: str) -> None:
        """Remove what a failed start made; the error of the start is the one to tell."""
        try:
            self._remove(container_id)
        except Exception as error:
            log.warning("LEAK-SUSPECT", container=container_id, source="start_failed", last_err=str(error))

    # --- Looking

    def status(self, workspace_id: UUID) -> ComputeState:
        outside_transaction()
        try:
            with explained("the container could not be looked at"):
                current = self._named(workspace_id)
        except BackendError as error:
            log.warning("docker.status_unknown", workspace_id=str(workspace_id), error=error.detail)
            return ComputeState.UNKNOWN
        return current.state if current and current.marks else ComputeState.NOT_RUNNING

    def list_managed(self) -> list[Compute]:
        outside_transaction()
        with explained("the containers could not be listed"):
            listed = []
            for one in self._engine.api.containers(all=True, filters=of_deployment(self._choices.instance)):
                try:
                    inspected = self._engine.api.inspect_container(one["Id"])
                except NotFound:  # gone since the list was made
                    continue
                if compute := found.compute(inspected, self._choices):
                    listed.append(compute)
            return listed

    def list_storage(self) -> list[Storage]:
        outside_transaction()
        with explained("the volumes could not be listed"):
            return self._volumes.list()

    def remove_storage(self, workspace_id: UUID) -> None:
        outside_transaction()
        with explained("the workspace's storage could not be removed"):
            self._files.end_helpers(workspace_id)
            self._volumes.remove(workspace_id)

    def refresh_image(self, runtime: str) -> ImageInfo:
        outside_transaction()
        return self._images.refresh(runtime)

    def logs(self, workspace_id: UUID, tail: int) -> str:
        outside_transaction()
        with explained("the workspace's log could not be read"):
            current = self._named(workspace_id)
            if current is None or current.marks is None:
                return ""
            printed: bytes = self._engine.api.logs(current.container_id, tail=tail)
            return printed.decode(errors="replace")

    def open_shell(self, workspace_id: UUID, idle_s: int) -> Shell:
        outside_transaction()
        with explained("the terminal could not be opened"):
            current = self._named(workspace_id)
            if current is None or current.marks is None or current.state != ComputeState.RUNNING:
                raise NotRunning
            return DockerShell(self._engine.api, current.container_id, idle_s=idle_s)

    # --- Files

    def list_files(self, workspace_id: UUID, root: str, path: str, depth: int) -> list[Entry]:
        outside_transaction()
        return self._files.list(workspace_id, root, path, depth)

    def read_file(self, workspace_id: UUID, root: str, path: str, limit: int) -> bytes:
        outside_transaction()
        return self._files.read(workspace_id, root, path, limit)

    def write_files(self, workspace_id: UUID, root: str, files: Mapping[str, File]) -> None:
        outside_transaction()
        self._files.write(workspace_id, root, files)

    def delete_file(self, workspace_id: UUID, root: str, path: str, *, recursive: bool) -> None:
        outside_transaction()
        self._files.delete(workspace_id, root, path, recursive=recursive)

    def dry_run(self, spec: StartSpec) -> Plan:
        outside_transaction()
        limits = self._choices.limits(spec.tier)
        shape.check_names(spec)
        with explained("the container engine could not be asked"):
            image, is_here = self._images.plan(spec)
        return Plan(
            self.label,
            sorted(spec.environment),
            sorted(spec.files),
            {"image": "ok" if is_here else "ok, but to be pulled or built"},
            image=image,
            mounts=shape.mounted(spec, limits),
            limits={
                "memory_mb": limits.memory_mb,
                "cpus": limits.nano_cpus / 10**9,
                "processes": limits.pids,
            },
        )

    def close(self) -> None:
        self._engine.close()

    def _exists(self, container_id: str) -> bool:
        try:
            self._engine.api.inspect_container(container_id)
        except NotFound:
            return False
        return True

    def _named(self, workspace_id: UUID) -> Found | None:
        try:
            inspected = self._engine.api.inspect_container(container_name(workspace_id))
        except NotFound:
            return None
        return found.read(inspected, self._choices)
