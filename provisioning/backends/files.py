"""A workspace's files on a local disk, reached by folder descriptors: no name is followed out of its folder,
not even one that is exchanged for a symbolic link in between. Writes are whole or not at all.

Source: docs/reference/files.md, Folders on this machine.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from provisioning.backends.base import NO_FILE, BackendError, Entry, ErrorClass, File, FileError, FileProblem

MISSING = FileError(FileProblem.MISSING, NO_FILE)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LINK = {errno.ELOOP, errno.ENOTDIR}


def checked_name(name: str) -> PurePosixPath:
    """The path below a workspace's config folder. Raises BackendError for one that would leave it."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise BackendError(
            ErrorClass.INVALID_SPEC, "workspace start failed", detail=f"unsafe file name {name!r}"
        )
    return path


def listed(base: Path, path: str, depth: int) -> list[Entry]:
    """Entries below `path` by name, files and folders only. Raises FileError; so do the three below."""
    with _told(), _opened(base, PurePosixPath(path).parts) as folder:
        return list(_entries(folder, "", depth))


def read(base: Path, path: str, limit: int) -> bytes:
    *above, name = checked_name(path).parts
    with _told(), _opened(base, above) as folder:
        _refuse_folder(folder, name)
        descriptor = os.open(name, _FILE, dir_fd=folder)
        with open(descriptor, "rb") as stored:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise MISSING
            content = stored.read(limit + 1)
    if len(content) > limit:
        raise FileError(FileProblem.TOO_LARGE, "file too large")
    return content


def write_files(base: Path, files: Mapping[str, File]) -> None:
    """Write `files` below `base`, each in one atomic step; seeds only where nothing is."""
    checked = [(checked_name(name).parts, file) for name, file in files.items()]
    with _told():
        base.mkdir(mode=0o755, parents=True, exist_ok=True)
        for (*above, name), file in checked:
            with _opened(base, above, make=True) as folder:
                _place(folder, name, file)


def delete(base: Path, path: str, *, recursive: bool) -> None:
    *above, name = checked_name(path).parts
    try:
        with _told(), _opened(base, above) as folder:
            if recursive and _is_folder(folder, name):
                shutil.rmtree(name, dir_fd=folder)
            else:
                _refuse_folder(folder, name)
                os.unlink(name, dir_fd=folder)
    except FileError as error:
        if error.problem != FileProblem.MISSING:
            raise


@contextmanager
def _opened(base: Path, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `parts` below `base`, one step at a time."""
    folder = os.open(base, _FOLDER)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _told() -> Iterator[None]:
    """What the system says of a path, in the words of the backends."""
    try:
        yield
    except FileNotFoundError:
        raise MISSING from None
    except OSError as error:
        if error.errno in _LINK:  # a file or a symbolic link where a folder or a file is wanted
            raise FileError(FileProblem.IS_FILE, "path is not a directory") from None
        text = "the workspace's files could not be reached"
        raise BackendError(ErrorClass.INTERNAL, text, detail=str(error), retryable=True) from error


def _entries(folder: int, below: str, depth: int) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        names = sorted(one.name for one in found)
    for name in names:
        try:
            seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:  # gone meanwhile
            continue
        shown = (below + name).encode(errors="replace").decode()
        if stat.S_ISREG(seen.st_mode):
            yield Entry(shown, seen.st_size, is_folder=False)
        elif stat.S_ISDIR(seen.st_mode):
            yield Entry(shown, 0, is_folder=True)
            if depth > 1:
                with suppress(OSError), _below(folder, name) as inner:
                    yield from _entries(inner, f"{below}{name}/", depth - 1)


@contextmanager
def _below(folder: int, name: str) -> Iterator[int]:
    inner = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield inner
    finally:
        os.close(inner)


def _is_folder(folder: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _refuse_folder(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        if _is_folder(folder, name):
            raise FileError(FileProblem.IS_FOLDER, "path is a directory")


def _place(folder: int, name: str, file: File) -> None:
    _refuse_folder(folder, name)
    temporary = f".{uuid4().hex}.new"
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder)
        with open(descriptor, "wb") as stored:
            stored.write(file.content)
            os.fchmod(descriptor, file.mode)  # whatever the umask took away
        if file.seed:
            with suppress(FileExistsError):
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
