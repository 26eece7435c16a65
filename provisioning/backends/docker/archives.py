"""Files as the archives that the engine takes: owned by the agent's account, names relative to the folder."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import PurePosixPath

from provisioning.backends.base import File
from provisioning.backends.files import checked_name

AGENT_ID = 1000  # user and group of every runtime's agent


def packed(files: Mapping[str, File]) -> bytes:
    """A tar of `files` and their folders. Raises BackendError for a name that would leave the folder."""
    packet = io.BytesIO()
    with tarfile.open(fileobj=packet, mode="w") as archive:
        known: set[PurePosixPath] = set()
        for name, file in files.items():
            path = checked_name(name)
            for folder in reversed(path.parents[:-1]):
                if folder not in known:
                    known.add(folder)
                    archive.addfile(_entry(str(folder), 0o755, tarfile.DIRTYPE))
            entry = _entry(str(path), file.mode, tarfile.REGTYPE)
            entry.size = len(file.content)
            archive.addfile(entry, io.BytesIO(file.content))
    return packet.getvalue()


def owned_folder(name: str, mode: int) -> bytes:
    """A tar that gives the folder `name` to the agent."""
    packet = io.BytesIO()
    with tarfile.open(fileobj=packet, mode="w") as archive:
        archive.addfile(_entry(name, mode, tarfile.DIRTYPE))
    return packet.getvalue()


def _entry(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, int(time.time())
    entry.uid = entry.gid = AGENT_ID
    return entry
