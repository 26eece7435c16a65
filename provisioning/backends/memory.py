"""A backend without processes: tests program its delays and failures and read what it was asked to do."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

from django.utils import timezone

from config.locks import outside_transaction
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
    Storage,
)
from provisioning.backends.files import checked_name


@dataclass(frozen=True)
class Call:
    """`generation` is the spec's of a start, the bound of a stop."""

    method: str
    workspace_id: UUID | None = None
    generation: int | None = None


class InMemoryBackend(Bare):
    """Safe for threads.

    `failures[method]` are raised one per call; `before[method]` runs first, with the workspace's id. A test
    gives it the label and the capabilities of the backend it stands for.
    """

    label = "memory"
    capabilities = frozenset({"files", "logs", "reset_session"})

    def __init__(self, label: str = label, capabilities: frozenset[str] = capabilities) -> None:
        self.label, self.capabilities = label, capabilities
        self.calls: list[Call] = []
        self.latency_s: dict[str, float] = {}
        self.failures: dict[str, deque[BackendError]] = defaultdict(deque)
        self.before: dict[str, Callable[[UUID | None], None]] = {}
        self.specs: list[StartSpec] = []  # of every start that went through
        self.unreachable = False  # status answers UNKNOWN, list_managed raises
        self.stored: dict[UUID, dict[str, dict[str, File]]] = {}  # per workspace and place, what is kept
        self.storage: list[Storage] = []
        self.consoles: dict[UUID, str] = {}
        self.log_texts: dict[UUID, str] = {}
        self.missing_images: set[str] = set()
        self._compute: dict[str, Compute] = {}  # by compute id
        self._mutex = threading.Lock()

    def running(self, workspace_id: UUID) -> list[int]:
        """The generations that run now."""
        with self._mutex:
            return sorted(one.generation for one in self._of(workspace_id))

    def kill(self, workspace_id: UUID) -> None:
        """Compute that dies by itself."""
        self._forget(workspace_id, None)

    def place(self, compute: Compute) -> None:
        """Compute that nobody asked this object to start."""
        with self._mutex:
            self._compute[compute.compute_id] = compute

    def change(self, workspace_id: UUID, **facts: Any) -> None:
        """What becomes of a workspace's compute by itself: another state, address or number of restarts."""
        with self._mutex:
            for one in self._of(workspace_id):
                self._compute[one.compute_id] = replace(one, **facts)

    def called(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def ensure_image(self, spec: StartSpec) -> ImageInfo:
        self._enter("ensure_image", spec.workspace_id, spec.generation)
        return ImageInfo(reference=f"memory/{spec.runtime}")

    def start(self, spec: StartSpec) -> Started:
        self._enter("start", spec.workspace_id, spec.generation)
        url = f"http://127.0.0.1:9/{spec.workspace_id}"
        for name in spec.files:
            checked_name(name)
        with self._mutex:
            mine = self._of(spec.workspace_id)
            for known in (one for one in mine if one.generation == spec.generation):
                return Started(known.compute_id, url, url, known.state, adopted=True)
            if any(one.generation > spec.generation for one in mine):
                raise BackendError(ErrorClass.CONFLICT, "a newer start of this workspace is already running")
            for one in mine:
                del self._compute[one.compute_id]
            compute_id = f"memory-{spec.workspace_id}-g{spec.generation}"
            self._compute[compute_id] = Compute(
                spec.workspace_id,
                compute_id,
                spec.generation,
                ComputeState.RUNNING,
                timezone.now(),
                spec.runtime,
            )
            self.specs.append(spec)
            self._store(spec)
            return Started(compute_id, url, url, ComputeState.RUNNING)

    def stop(self, workspace_id: UUID, below_generation: int | None = None) -> None:
        self._enter("stop", workspace_id, below_generation)
        self._forget(workspace_id, below_generation)

    def stop_compute(self, workspace_id: UUID, compute_id: str) -> None:
        self._enter("stop_compute", workspace_id)
        with self._mutex:
            if any(one.compute_id == compute_id for one in self._of(workspace_id)):
                del self._compute[compute_id]

    def status(self, workspace_id: UUID) -> ComputeState:
        self._enter("status", workspace_id)
        if self.unreachable:
            return ComputeState.UNKNOWN
        with self._mutex:
            states = {one.state for one in self._of(workspace_id)}
        return min(states - {ComputeState.NOT_RUNNING}, default=ComputeState.NOT_RUNNING)

    def list_managed(self) -> list[Compute]:
        self._enter("list_managed")
        if self.unreachable:
            raise ConnectionError("unreachable")
        with self._mutex:
            return list(self._compute.values())

    def remove_storage(self, workspace_id: UUID) -> None:
        self._enter("remove_storage", workspace_id)
        with self._mutex:
            self.stored.pop(workspace_id, None)
            self.storage = [one for one in self.storage if one.workspace_id != workspace_id]

    def list_storage(self) -> list[Storage]:
        self._enter("list_storage")
        with self._mutex:
            return [
                *self.storage,
                *(Storage(workspace_id, str(workspace_id)) for workspace_id in self.stored),
            ]

    def refresh_image(self, runtime: str) -> ImageInfo:
        self._enter("refresh_image")
        if runtime in self.missing_images:
            raise BackendError(ErrorClass.IMAGE_UNAVAILABLE, f"no image of {runtime}")
        return ImageInfo(reference=f"memory/{runtime}")

    def logs(self, workspace_id: UUID, tail: int) -> str:
        self._enter("logs", workspace_id)
        return "\n".join(self.log_texts.get(workspace_id, "").splitlines()[-tail:])

    def console(self, workspace_id: UUID) -> str:
        self._enter("console", workspace_id)
        if workspace_id not in self.consoles:
            raise FileError(FileProblem.MISSING, "there is no machine")
        return self.consoles[workspace_id]

    def list_files(self, workspace_id: UUID, root: str, path: str, depth: int) -> list[Entry]:
        files, top = self._place(workspace_id, root)
        top += f"{path}/" if path else ""
        below = {name[len(top) :]: file for name, file in files.items() if name.startswith(top)}
        if path and not below:
            is_file = top.rstrip("/") in files
            raise FileError(FileProblem.IS_FILE if is_file else FileProblem.MISSING, "no such folder")
        folders = {str(one) for name in below for one in PurePosixPath(name).parents if one.parts}
        found = [Entry(name, len(file.content), is_folder=False) for name, file in below.items()]
        found += [Entry(name, 0, is_folder=True) for name in folders]
        return sorted((one for one in found if one.path.count("/") < depth), key=lambda one: one.path)

    def read_file(self, workspace_id: UUID, root: str, path: str, limit: int) -> bytes:
        files, top = self._place(workspace_id, root)
        name = f"{top}{checked_name(path)}"
        if any(one.startswith(f"{name}/") for one in files):
            raise FileError(FileProblem.IS_FOLDER, "path is a directory")
        if name not in files:
            raise FileError(FileProblem.MISSING, "file not found")
        if len(files[name].content) > limit:
            raise FileError(FileProblem.TOO_LARGE, "file too large")
        return files[name].content

    def write_files(self, workspace_id: UUID, root: str, files: Mapping[str, File]) -> None:
        self._enter("write_files", workspace_id)
        stored, top = self._place(workspace_id, root)
        named = {f"{top}{checked_name(path)}": file for path, file in files.items()}
        with self._mutex:
            for name in named:
                if any(one.startswith(f"{name}/") for one in stored):
                    raise FileError(FileProblem.IS_FOLDER, "path is a directory")
                if any(str(one) in stored for one in PurePosixPath(name).parents):
                    raise FileError(FileProblem.IS_FILE, "path is not a directory")
            stored |= {name: file for name, file in named.items() if not (file.seed and name in stored)}

    def delete_file(self, workspace_id: UUID, root: str, path: str, *, recursive: bool) -> None:
        self._enter("delete_file", workspace_id)
        stored, top = self._place(workspace_id, root)
        name = f"{top}{checked_name(path)}"
        with self._mutex:
            below = [one for one in stored if one.startswith(f"{name}/")]
            if below and not recursive:
                raise FileError(FileProblem.IS_FOLDER, "path is a directory")
            for one in (name, *below):
                stored.pop(one, None)

    def _place(self, workspace_id: UUID, root: str) -> tuple[dict[str, File], str]:
        """The files that hold those of `root`, and how their names begin there."""
        outside_transaction()
        if workspace_id not in self.stored:
            raise FileError(FileProblem.UNAVAILABLE, NO_STORAGE)
        places = self.stored[workspace_id]
        if root == "/plugins":
            return places["/configs"], "plugins/"
        return places.setdefault(root, {}), ""

    def dry_run(self, spec: StartSpec) -> Plan:
        return Plan(self.label, sorted(spec.environment), sorted(spec.files), {})

    def close(self) -> None:
        pass

    def _store(self, spec: StartSpec) -> None:
        places = self.stored.setdefault(spec.workspace_id, {"/configs": {}, "/workspace": {}, "session": {}})
        if spec.reset_session:
            places["session"].clear()
        seeds = {name for name, file in spec.files.items() if file.seed and name in places["/configs"]}
        places["/configs"] |= {name: file for name, file in spec.files.items() if name not in seeds}

    def _forget(self, workspace_id: UUID, below_generation: int | None) -> None:
        with self._mutex:
            for one in self._of(workspace_id):
                if below_generation is None or one.generation < below_generation:
                    del self._compute[one.compute_id]

    def _of(self, workspace_id: UUID) -> list[Compute]:
        return [one for one in self._compute.values() if one.workspace_id == workspace_id]

    def _enter(self, method: str, workspace_id: UUID | None = None, generation: int | None = None) -> None:
        outside_transaction()
        with self._mutex:
            self.calls.append(Call(method, workspace_id, generation))
            failure = self.failures[method].popleft() if self.failures[method] else None
        if method in self.before:
            self.before[method](workspace_id)
        time.sleep(self.latency_s.get(method, 0))
        if failure:
            raise failure
