"""The files of a template or plugin folder, as a workspace receives them.

Source: docs/reference/templates.md, What is copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from templates.folders import UnsafePath, plain_path

BUNDLE_BYTES = 16 * 1024 * 1024
NEVER_COPIED = frozenset({".git", ".env", "__pycache__", "node_modules", ".DS_Store"})
_UNIX_LINES = (".sh", ".py", ".md")


class CannotCopy(Exception):
    """A folder that cannot be copied whole. The text names the file below it."""


def folder_files(folder: Path, *, limit: int = BUNDLE_BYTES) -> dict[str, bytes]:
    """Content by path below `folder`, at most `limit` bytes in all. Symbolic links are left out.

    Raises CannotCopy: a part of a configuration is worse than none.
    """
    found: dict[str, bytes] = {}
    size = 0
    for path, relative in _files(folder):
        found[relative] = _content(path, relative, limit - size)
        size += len(found[relative])
    return found


def folder_size(folder: Path, *, limit: int = BUNDLE_BYTES) -> int:
    """How many bytes `folder_files` would read, or more. Raises CannotCopy as it would, contents aside."""
    size = 0
    for path, relative in _files(folder):
        try:
            size += path.stat().st_size
        except OSError as error:
            raise CannotCopy(f"{relative} cannot be read") from error
        if size > limit:
            raise CannotCopy(f"the folder is larger than {limit} bytes")
    return size


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if name not in NEVER_COPIED)
        for name in sorted(names):
            path = Path(place, name)
            if name not in NEVER_COPIED and not path.is_symlink() and path.is_file():
                yield path, _named(path, folder)


def unix_lines(path: str, content: bytes) -> bytes:
    """Scripts and prompts written on Windows run and read everywhere."""
    return content.replace(b"\r\n", b"\n") if path.endswith(_UNIX_LINES) else content


def _named(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    try:
        return plain_path(relative)
    except (UnsafePath, UnicodeEncodeError) as error:
        raise CannotCopy(f"a file name {error}") from None


def _content(path: Path, relative: str, room: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as stored:
            content = stored.read(room + 1)
    except OSError as error:
        raise CannotCopy(f"{relative} cannot be read") from error
    if len(content) > room:
        raise CannotCopy(f"the folder is larger than {BUNDLE_BYTES} bytes")
    return unix_lines(relative, content)


def _refuse(error: OSError) -> None:
    raise CannotCopy("the folder cannot be read") from error
