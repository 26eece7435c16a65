"""A workspace's files on a local disk, in the words of the backends.

Source: docs/reference/files.md, Folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from provisioning.backends import folder
from provisioning.backends.base import (
    NO_FILE,
    NO_STORAGE,
    BackendError,
    Entry,
    ErrorClass,
    File,
    FileError,
    FileProblem,
)

PROBLEMS = {
    folder.MISSING: (FileProblem.MISSING, NO_FILE),
    folder.IS_FOLDER: (FileProblem.IS_FOLDER, "path is a directory"),
    folder.IS_FILE: (FileProblem.IS_FILE, "path is not a directory"),
    folder.TOO_LARGE: (FileProblem.TOO_LARGE, "file too large"),
    folder.BUSY: (FileProblem.UNAVAILABLE, NO_STORAGE),
}


def checked_name(name: str) -> PurePosixPath:
    """The path below a workspace's config folder. Raises BackendError for one that would leave it."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise BackendError(
            ErrorClass.INVALID_SPEC, "workspace start failed", detail=f"unsafe file name {name!r}"
        )
    return path


def listed(base: Path, path: str, depth: int, *, top: str = "") -> list[Entry]:
    """Entries below `path` of `top` by name, files and folders only; none when there is no `top` yet.

    Raises FileError; so do the three below.
    """
    with _told():
        return [Entry(*one) for one in folder.listed(str(base), top, path, depth)]


def read(base: Path, path: str, limit: int) -> bytes:
    with _told():
        return folder.read(str(base), str(checked_name(path)), limit)


def write_files(base: Path, files: Mapping[str, File]) -> None:
    """Write `files` below `base`, each in one atomic step; seeds only where nothing is."""
    wanted = [
        folder.Written(str(checked_name(name)), file.content, file.mode, file.seed)
        for name, file in files.items()
    ]
    with _told():
        base.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.write(str(base), wanted)


def delete(base: Path, path: str, *, recursive: bool) -> None:
    with _told():
        folder.delete(str(base), str(checked_name(path)), recursive=recursive)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except folder.Mistake as mistake:
        raise FileError(*PROBLEMS[mistake.code]) from None
    except OSError as error:
        text = "the workspace's files could not be reached"
        raise BackendError(ErrorClass.INTERNAL, text, detail=str(error), retryable=True) from error
