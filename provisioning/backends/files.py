"""A workspace's config files on a local disk: whole or not at all, secrets never readable by others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from provisioning.backends.base import BackendError, ErrorClass, File


def write_files(folder: Path, files: Mapping[str, File]) -> None:
    """Write `files` below `folder`, each in one atomic step; seeds only where nothing is.

    Raises BackendError.
    """
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, file in files.items():
            path = folder / checked_name(name)
            if not (file.seed and path.exists()):
                _write(path, file)
    except OSError as error:
        raise BackendError(
            ErrorClass.INTERNAL, "workspace start failed", detail=str(error), retryable=True
        ) from error


def checked_name(name: str) -> PurePosixPath:
    """The path below a workspace's config folder. Raises BackendError for one that would leave it."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise BackendError(
            ErrorClass.INVALID_SPEC, "workspace start failed", detail=f"unsafe file name {name!r}"
        )
    return path


def _write(path: Path, file: File) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # left by a writer that died
    with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, file.mode), "wb") as stored:
        stored.write(file.content)
    temporary.chmod(file.mode)  # whatever the umask took away
    temporary.replace(path)
