"""Each workspace is a local process of the reference agent: for development, tests and the embedded stack.

What runs is read from the command lines of the machine's processes, which carry the deployment's mark, the
workspace and the generation: like a container engine's list, that cannot go stale. A file lock per workspace
keeps two workers from starting it twice. Source: docs/reference/provisioning.md, Processes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import structlog

from config.locks import outside_transaction
from provisioning.backends import files as disk
from provisioning.backends.base import (
    NO_STORAGE,
    BackendError,
    Bare,
    Compute,
    ComputeState,
    Entry,
    ErrorClass,
    File,
    FileError,
    FileProblem,
    ImageInfo,
    Plan,
    Started,
    StartSpec,
)

log = structlog.get_logger(__name__)

REFERENCE_AGENT = (sys.executable, "-m", "agent", "serve")
STOP_GRACE_S = 5.0  # between SIGTERM and SIGKILL
KILL_GRACE_S = 5.0
POLL_S = 0.05
LISTED_S = 5.0
LOG_TAIL_BYTES = 256 * 1024
_ROOTS = {
    "/configs": "configs",
    "/workspace": "workspace",
    "/home": "home",
    "/plugins": "configs/plugins",
}  # the folder below the workspace's that stands for each
_IN_CONTAINERS_ONLY = frozenset({"PYTHONPATH", "PLUGINS_DIR"})


@dataclass(frozen=True)
class _Agent:
    process: psutil.Process
    workspace_id: UUID
    generation: int
    port: int

    @property
    def compute_id(self) -> str:
        """The start time makes it unique: process ids come round again."""
        return f"process-{self.process.pid}-{int(self.process.create_time() * 1000)}"


class ProcessBackend(Bare):
    """`root` holds one folder per workspace; `instance_id` marks this deployment's processes."""

    label = "process"
    capabilities = frozenset({"files", "logs"})

    def __init__(
        self, *, root: Path, instance_id: str, cwd: Path, command: Sequence[str] = REFERENCE_AGENT
    ) -> None:
        self._root = root.resolve()
        self._instance_id = instance_id
        self._cwd = cwd
        self._command = command
        self._children: list[subprocess.Popen[bytes]] = []  # kept, so that those that ended can be reaped

    def ensure_image(self, spec: StartSpec) -> ImageInfo:
        outside_transaction()
        return ImageInfo()

    def start(self, spec: StartSpec) -> Started:
        outside_transaction()
        with self._exclusive(spec.workspace_id):
            found = self._agents(spec.workspace_id)
            if any(agent.generation > spec.generation for agent in found):
                raise BackendError(ErrorClass.CONFLICT, "a newer start of this workspace is already running")
            for agent in found:
                if agent.generation == spec.generation:
                    return self._started(agent, adopted=True)
            self._end(found)
            with suppress(FileExistsError):
                self._configs(spec.workspace_id).mkdir(mode=0o755)
            self._write(spec.workspace_id, "configs", spec.files)
            return self._spawn(spec)

    def stop(self, workspace_id: UUID, below_generation: int | None = None) -> None:
        outside_transaction()
        with self._exclusive(workspace_id, create=False):
            found = self._agents(workspace_id)
            self._end([one for one in found if below_generation is None or one.generation < below_generation])

    def stop_compute(self, workspace_id: UUID, compute_id: str) -> None:
        outside_transaction()
        with self._exclusive(workspace_id, create=False):
            self._end([one for one in self._agents(workspace_id) if one.compute_id == compute_id])

    def status(self, workspace_id: UUID) -> ComputeState:
        outside_transaction()
        try:
            return ComputeState.RUNNING if self._agents(workspace_id) else ComputeState.NOT_RUNNING
        except OSError as error:
            log.warning("processes.unreadable", workspace_id=str(workspace_id), error=str(error))
            return ComputeState.UNKNOWN

    def list_managed(self) -> list[Compute]:
        outside_transaction()
        listed = []
        for agent in self._agents():
            try:
                began = datetime.fromtimestamp(agent.process.create_time(), UTC)
                listed.append(
                    Compute(
                        agent.workspace_id, agent.compute_id, agent.generation, ComputeState.RUNNING, began
                    )
                )
            except psutil.NoSuchProcess:  # ended since the scan
                continue
        return listed

    def remove_storage(self, workspace_id: UUID) -> None:
        outside_transaction()
        with self._exclusive(workspace_id, create=False):
            if self._agents(workspace_id):
                raise BackendError(ErrorClass.CONFLICT, "the workspace still runs")
            with suppress(FileNotFoundError):
                shutil.rmtree(self._folder(workspace_id))

    def logs(self, workspace_id: UUID, tail: int) -> str:
        try:
            with open(self._folder(workspace_id) / "agent.log", "rb") as stored:
                stored.seek(max(0, os.fstat(stored.fileno()).st_size - LOG_TAIL_BYTES))
                lines = stored.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-tail:])

    def list_files(self, workspace_id: UUID, root: str, path: str, depth: int) -> list[Entry]:
        return disk.listed(self._stored(workspace_id), path, depth, top=_ROOTS[root])

    def read_file(self, workspace_id: UUID, root: str, path: str, limit: int) -> bytes:
        return disk.read(self._stored(workspace_id), f"{_ROOTS[root]}/{disk.checked_name(path)}", limit)

    def write_files(self, workspace_id: UUID, root: str, files: Mapping[str, File]) -> None:
        self._stored(workspace_id)
        self._write(workspace_id, _ROOTS[root], files)

    def delete_file(self, workspace_id: UUID, root: str, path: str, *, recursive: bool) -> None:
        below = f"{_ROOTS[root]}/{disk.checked_name(path)}"
        disk.delete(self._stored(workspace_id), below, recursive=recursive)

    def dry_run(self, spec: StartSpec) -> Plan:
        checks = {"command": "ok" if shutil.which(self._command[0]) else "missing"}
        return Plan(self.label, sorted(spec.environment), sorted(spec.files), checks)

    def close(self) -> None:
        """Agents outlive the process that started them; there is nothing to let go."""

    def _spawn(self, spec: StartSpec) -> Started:
        """Bind the agent's socket here: its address is known at once, and nobody else can take the port."""
        self._children = [child for child in self._children if child.poll() is None]
        folder = self._folder(spec.workspace_id)
        with socket.create_server(("127.0.0.1", 0)) as listener, open(folder / "agent.log", "ab") as output:
            port = listener.getsockname()[1]
            # What the agent says of itself may arrive before our own address is stored, and is then judged
            # like any agent's: `localhost` passes there where a loopback address would not.
            announced = f"http://localhost:{port}"
            marks = {
                "--config-dir": self._configs(spec.workspace_id),
                "--workspace": spec.workspace_id,
                "--generation": spec.generation,
                "--instance": self._instance_id,
                "--listen-fd": listener.fileno(),
                "--url": announced,
            }
            try:
                child = subprocess.Popen(
                    [*self._command, *(str(word) for mark in marks.items() for word in mark)],
                    cwd=self._cwd,
                    env=self._environment(spec, announced),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,  # signals to the worker's group are not for the agent
                )
            except (OSError, ValueError) as error:  # ValueError: a NUL in a secret
                raise BackendError(
                    ErrorClass.BOOT_FAILED, "workspace start failed", detail=str(error)
                ) from error
        self._children.append(child)
        _until_listed(child)
        try:
            agent = _Agent(psutil.Process(child.pid), spec.workspace_id, spec.generation, port)
            return self._started(agent, adopted=False)
        except psutil.NoSuchProcess as error:
            raise BackendError(ErrorClass.BOOT_FAILED, "the agent ended as soon as it had started") from error

    def _environment(self, spec: StartSpec, url: str) -> dict[str, str]:
        """What preparation made and the bare necessities;
        never the server's own environment with its credentials.
        """
        prepared = {key: value for key, value in spec.environment.items() if key not in _IN_CONTAINERS_ONLY}
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self._folder(spec.workspace_id)),
            **prepared,
            "WORKSPACE_CONFIG_PATH": str(self._configs(spec.workspace_id)),
            "MOLECULE_WORKSPACE_URL": url,
        }

    def _started(self, agent: _Agent, *, adopted: bool) -> Started:
        url = f"http://127.0.0.1:{agent.port}"
        return Started(agent.compute_id, url, internal_url=url, state=ComputeState.RUNNING, adopted=adopted)

    def _agents(self, workspace_id: UUID | None = None) -> list[_Agent]:
        """This deployment's living agents (of one workspace). A zombie has no command line, so it is none."""
        found = []
        for process in psutil.process_iter():
            try:
                agent = self._read(process, process.cmdline())
                if agent and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(agent)
            except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile, or somebody else's
                continue
        return [agent for agent in found if workspace_id in (None, agent.workspace_id)]

    def _read(self, process: psutil.Process, words: Sequence[str]) -> _Agent | None:
        marks = dict(pairwise(words))
        if marks.get("--instance") != self._instance_id:
            return None
        try:
            port = urlsplit(marks["--url"]).port or 0
            return _Agent(process, UUID(marks["--workspace"]), int(marks["--generation"]), port)
        except (KeyError, ValueError):
            return None

    def _end(self, agents: Sequence[_Agent]) -> None:
        """SIGTERM, then SIGKILL, and see them gone. Raises BackendError for one that stays."""
        processes = [agent.process for agent in agents]
        for send, grace_s in ((psutil.Process.terminate, STOP_GRACE_S), (psutil.Process.kill, KILL_GRACE_S)):
            for process in processes:
                try:
                    send(process)
                except psutil.NoSuchProcess:
                    continue
            processes = _still_there(processes, grace_s)
        if processes:
            raise BackendError(
                ErrorClass.TRANSIENT, "the workspace's process could not be stopped", retryable=True
            )

    def _folder(self, workspace_id: UUID) -> Path:
        return self._root / str(workspace_id)

    def _stored(self, workspace_id: UUID) -> Path:
        """The workspace's folder. Raises FileError before its first start."""
        outside_transaction()
        if not self._configs(workspace_id).is_dir():
            raise FileError(FileProblem.UNAVAILABLE, NO_STORAGE)
        return self._folder(workspace_id)

    def _configs(self, workspace_id: UUID) -> Path:
        return self._folder(workspace_id) / "configs"

    def _write(self, workspace_id: UUID, place: str, files: Mapping[str, File]) -> None:
        """From the workspace's own folder on: the agent may have put a link in place of one below it."""
        below = {f"{place}/{disk.checked_name(name)}": file for name, file in files.items()}
        disk.write_files(self._folder(workspace_id), below)

    @contextmanager
    def _exclusive(self, workspace_id: UUID, *, create: bool = True) -> Iterator[None]:
        """Hold the workspace's file lock.

        Without `create` a workspace that has no folder is not locked: nothing runs there.
        """
        path = self._folder(workspace_id) / ".lock"
        descriptor = None
        while descriptor is None:
            if create:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not path.parent.is_dir():
                yield
                return
            descriptor = _locked(path)
        try:
            yield
        finally:
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock of the file now at `path`;
    None when the file was deleted while we waited.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return None


def _until_listed(child: subprocess.Popen[bytes]) -> None:
    """Wait until a scan shows the child: for a moment after it was started it has no command line yet."""
    deadline = time.monotonic() + LISTED_S
    while child.poll() is None and time.monotonic() < deadline:
        with suppress(psutil.Error):
            if psutil.Process(child.pid).cmdline():
                return
        time.sleep(0.001)


def _still_there(processes: Sequence[psutil.Process], grace_s: float) -> list[psutil.Process]:
    """Those that live after `grace_s`.

    A zombie is gone: its parent, maybe another worker, reaps it when it likes.
    """
    deadline = time.monotonic() + grace_s
    while (alive := [one for one in processes if _lives(one)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return alive


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
