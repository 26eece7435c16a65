"""A file of the agent for the user to download: only what lies in its own folders, never through a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO


class NotReadable(Exception):
    """The answer to a path that is not served: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def open_readable(path: str, roots: Mapping[str, Path]) -> tuple[BinaryIO, int]:
    """The file `path` and its size; `roots` says where `/workspace` and the like are on this machine.

    Each step is opened below the one before and no link is followed: a path cannot lead out of its root.
    Raises NotReadable.
    """
    segments = path.split("/")
    root = roots.get(f"/{segments[1]}") if len(segments) > 2 and not segments[0] else None
    if root is None or any(one in {"", ".", ".."} for one in segments[1:]) or "\x00" in path:
        raise NotReadable(400, "invalid path")
    if segments[1] == "configs" and any(one.startswith(".") for one in segments):
        raise NotReadable(400, "this file is not served")
    try:
        handle = _descend(root, segments[2:])
    except FileNotFoundError:
        raise NotReadable(404, "no such file") from None
    except OSError:  # a link, a file where a folder should be, no permission
        raise NotReadable(400, "not a readable file") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise NotReadable(400, "not a regular file")
    return os.fdopen(handle, "rb"), found.st_size


def _descend(root: Path, segments: list[str]) -> int:
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for index, segment in enumerate(segments):
        is_last = index == len(segments) - 1
        kind = os.O_NONBLOCK if is_last else os.O_DIRECTORY  # a pipe must not hold us
        try:
            below = os.open(segment, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle
