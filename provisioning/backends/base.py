"""What every backend offers, in one vocabulary: compute is started, stopped and listed by workspace and
generation.

Source: docs/reference/provisioning.md, Backends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID


class ComputeState(StrEnum):
    """Only NOT_RUNNING is knowledge enough to act on; UNKNOWN means that nobody could tell."""

    RUNNING = "running"
    STARTING = "starting"
    NOT_RUNNING = "not_running"
    UNKNOWN = "unknown"


class ErrorClass(StrEnum):
    NO_BACKEND = "no_backend"
    TRANSIENT = "transient"
    QUOTA = "quota"
    CAPACITY = "capacity"
    IMAGE_UNAVAILABLE = "image_unavailable"
    CONFIG = "config"
    INVALID_SPEC = "invalid_spec"
    CONFLICT = "conflict"
    PERSIST = "persist"
    BOOT_FAILED = "boot_failed"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


class BackendError(Exception):
    """Why compute could not be started or stopped.

    `safe_message` is shown to people; `detail` stays in the log and the ledger; `extra` joins the event's
    payload.
    """

    def __init__(
        self,
        error_class: ErrorClass,
        safe_message: str,
        *,
        detail: str = "",
        retryable: bool = False,
        **extra: Any,
    ) -> None:
        super().__init__(safe_message)
        self.error_class = error_class
        self.safe_message = safe_message
        self.detail = detail
        self.retryable = retryable
        self.extra = extra


class Unsupported(BackendError):
    def __init__(self, what: str) -> None:
        super().__init__(ErrorClass.CONFIG, f"this server's workspaces have no {what}")


class NotRunning(BackendError):
    def __init__(self) -> None:
        super().__init__(ErrorClass.CONFLICT, "container not running")


NO_STORAGE = "workspace storage unavailable; retry after it starts"
NO_FILE = "file not found"


class FileProblem(StrEnum):
    MISSING = "missing"
    IS_FOLDER = "is_folder"
    IS_FILE = "is_file"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"  # nothing runs, and this root cannot be reached without


class FileError(BackendError):
    """What a person did wrong with a path, or why the workspace's storage cannot be reached now."""

    def __init__(self, problem: FileProblem, safe_message: str, *, detail: str = "") -> None:
        super().__init__(ErrorClass.INVALID_SPEC, safe_message, detail=detail)
        self.problem = problem


@dataclass(frozen=True)
class File:
    """One file below the workspace's config folder. A `seed` never replaces what is there: people edit it."""

    content: bytes
    mode: int = 0o644
    seed: bool = False


@dataclass(frozen=True)
class StartSpec:
    """All that a start needs. `files` is keyed by the path below the config folder."""

    workspace_id: UUID
    generation: int
    operation_id: UUID
    name: str
    runtime: str
    tier: int
    environment: Mapping[str, str] = field(repr=False)  # holds secrets
    files: Mapping[str, File] = field(repr=False)
    image: str | None = None
    workspace_dir: str | None = None
    workspace_access: str = "none"
    reset_session: bool = False
    # What the machine shows to fetch its start from us; only for backends with the capability boot_bundle.
    boot_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ImageInfo:
    """The image a start would use; both None where the backend knows no images.

    `is_stale`: a newer one could not be fetched, so the copy at hand is used.
    """

    reference: str | None = None
    digest: str | None = None
    is_stale: bool = False


@dataclass(frozen=True)
class Started:
    """`url` is how the server reaches the agent, `internal_url` how other agents do; `adopted`:
    it ran already.
    """

    compute_id: str
    url: str
    internal_url: str
    state: ComputeState
    adopted: bool = False
    instance_id: str | None = None  # a machine of its own, where the backend rents one per workspace
    left_behind: bool = False  # compute of an older generation would not stop: its stop is owed


@dataclass(frozen=True)
class Compute:
    """One piece of compute as the backend sees it now."""

    workspace_id: UUID
    compute_id: str
    generation: int
    state: ComputeState
    started_at: datetime | None = None
    runtime: str = ""
    url: str | None = None  # where the server reaches it now, told only by backends whose addresses move
    vcpus: float | None = None  # processors it holds, where the platform counts them
    restarts: int = 0  # times it ended and the platform started it again by itself


@dataclass(frozen=True)
class Storage:
    """Something a workspace stored that outlives its compute."""

    workspace_id: UUID
    name: str
    created_at: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """One line of a listing: `path` is relative to the listed folder, a folder's `size` is 0."""

    path: str
    size: int
    is_folder: bool


@dataclass(frozen=True)
class Plan:
    """What a start would create."""

    backend: str
    environment_keys: Sequence[str]
    files: Sequence[str]
    checks: Mapping[str, str]  # name -> "ok" (and a remark), or what is wrong
    image: str | None = None
    image_digest: str | None = None
    mounts: Sequence[str] = ()  # the agent's folders that outlive its compute
    limits: Mapping[str, Any] = field(default_factory=dict)  # of what a tier limits; units in the names
    instance_type: str | None = None


class Shell(Protocol):
    """A terminal inside a workspace's compute, for one thread that reads and one that writes."""

    def read(self) -> bytes:
        """What was printed since, waiting for some; b"" once the shell has ended."""

    def write(self, given: bytes) -> None:
        """Raises OSError once the shell has ended."""

    def close(self) -> None:
        """End the shell and what was started in it."""


class Backend(Protocol):
    """Every method is synchronous, may take long, and refuses to run inside a database transaction."""

    label: str
    # Of: volumes, exec, files, console, logs, image_cache, spot, reset_session, boot_bundle, shell. A verb
    # that needs one raises Unsupported without it.
    capabilities: frozenset[str]

    def ensure_image(self, spec: StartSpec) -> ImageInfo:
        """Obtain the image or raise BackendError(IMAGE_UNAVAILABLE); never stops anything."""

    def start(self, spec: StartSpec) -> Started:
        """Idempotent per workspace and generation: what runs is adopted, what is older is replaced."""

    def stop(self, workspace_id: UUID, below_generation: int | None = None) -> None:
        """Return once the compute (of lower generations) is gone. An unknown workspace is a success."""

    def stop_compute(self, workspace_id: UUID, compute_id: str) -> None:
        """Return once exactly this compute is gone, whatever its generation. What is unknown, or not this
        workspace's in this deployment, is left alone: a success.
        """

    def status(self, workspace_id: UUID) -> ComputeState:
        """An unknown workspace is NOT_RUNNING. Never raises: what cannot be told is UNKNOWN, and logged."""

    def list_managed(self) -> list[Compute]:
        """All compute of this deployment, or an exception; never a part of it."""

    def list_storage(self) -> list[Storage]:
        """All storage of this deployment's workspaces, or an exception; never a part of it."""

    def remove_storage(self, workspace_id: UUID) -> None:
        """Delete what the workspace stored. Missing is a success."""

    def refresh_image(self, runtime: str) -> ImageInfo:
        """Fetch the newest image of a runtime for starts to come (image_cache); stops nothing."""

    def finish_boot(self, workspace_id: UUID) -> None:
        """The agent has called: take away what only a booting machine needs (boot_bundle). Idempotent."""

    def logs(self, workspace_id: UUID, tail: int) -> str:
        """The last `tail` lines (logs)."""

    def console(self, workspace_id: UUID) -> str:
        """What the machine printed while it booted (console); FileError(MISSING) without a machine."""

    def open_shell(self, workspace_id: UUID, idle_s: int) -> Shell:
        """A terminal (shell) that ends by itself after `idle_s`; NotRunning where nothing runs."""

    # Files (files). `root` is one of /configs, /workspace, /home, /plugins as the agent sees it; `path` is
    # relative to it and was checked by the caller. Errors: FileError.

    def list_files(self, workspace_id: UUID, root: str, path: str, depth: int) -> list[Entry]:
        """The folder's entries down to `depth` levels, without symbolic links."""

    def read_file(self, workspace_id: UUID, root: str, path: str, limit: int) -> bytes:
        """The exact bytes of a file of at most `limit` bytes."""

    def write_files(self, workspace_id: UUID, root: str, files: Mapping[str, File]) -> None:
        """Write each file in one atomic step, making its folders; what is not named stays."""

    def delete_file(self, workspace_id: UUID, root: str, path: str, *, recursive: bool) -> None:
        """Delete a file, or with `recursive` a folder. Missing is a success."""

    def dry_run(self, spec: StartSpec) -> Plan:
        """Validate and tell what would be created; creates nothing."""

    def close(self) -> None:
        """Idempotent."""


class Bare:
    """What a backend without an optional capability answers; backends inherit it and add what they offer."""

    def list_storage(self) -> list[Storage]:
        return []

    def refresh_image(self, runtime: str) -> ImageInfo:
        raise Unsupported("images")

    def finish_boot(self, workspace_id: UUID) -> None:
        pass

    def logs(self, workspace_id: UUID, tail: int) -> str:
        raise Unsupported("log")

    def console(self, workspace_id: UUID) -> str:
        raise Unsupported("console")

    def open_shell(self, workspace_id: UUID, idle_s: int) -> Shell:
        raise Unsupported("terminal")

    def list_files(self, workspace_id: UUID, root: str, path: str, depth: int) -> list[Entry]:
        raise Unsupported("files")

    def read_file(self, workspace_id: UUID, root: str, path: str, limit: int) -> bytes:
        raise Unsupported("files")

    def write_files(self, workspace_id: UUID, root: str, files: Mapping[str, File]) -> None:
        raise Unsupported("files")

    def delete_file(self, workspace_id: UUID, root: str, path: str, *, recursive: bool) -> None:
        raise Unsupported("files")
