"""Where the files of the user lie: `.molecule/chat-uploads` of the agent's workspace.

A file appears under its name only when it is whole. Its name begins with 32 hexadecimal digits; for a fetched
file they are its id, so that one fetched before a crash is known again and never kept twice.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.names import sanitised

log = logging.getLogger("agent")

WORKSPACE = "/workspace"  # what every agent calls its working folder, wherever it is on this machine
FOLDER = ".molecule/chat-uploads"
KEPT_S = 30 * 86_400.0
DRAFT_KEPT_S = 86_400.0
_STORED = re.compile(r"[0-9a-f]{32}-")


class TooLarge(Exception):
    """The file is above its limit."""


@dataclass
class Draft:
    """A file that is being written."""

    stream: BinaryIO
    limit: int
    size: int = 0

    def write(self, data: bytes) -> None:
        """Raises TooLarge, OSError."""
        self.size += len(data)
        if self.size > self.limit:
            raise TooLarge
        self.stream.write(data)


class UploadFolder:
    def __init__(self, workspace_dir: Path) -> None:
        self.path = workspace_dir / FOLDER

    @contextmanager
    def new_file(self, digits: str, name: str, *, limit: int) -> Iterator[Draft]:
        """Write `<digits>-<name>`, mode 0600; nothing of it stays when the block fails. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path / f".{digits}.{secrets.token_hex(8)}.part"
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield Draft(stream, limit)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, self.path / stored_name(digits, name))
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise

    def remove(self, digits: str, name: str) -> None:
        with suppress(OSError):
            (self.path / stored_name(digits, name)).unlink()

    def find(self, digits: str) -> str | None:
        """The uri of the file with these digits, if it is here."""
        if not _STORED.fullmatch(f"{digits}-"):
            return None
        for found in self.path.glob(f"{digits}-*"):
            if found.is_file() and not found.is_symlink():
                return uri_of(found.name)
        return None

    def prune(self, *, kept_s: float = KEPT_S) -> int:
        """Remove files older than `kept_s` seconds, and what an interrupted write left; return how many."""
        removed = 0
        now = time.time()
        try:
            for entry in os.scandir(self.path):
                is_draft = entry.name.startswith(".") and entry.name.endswith(".part")
                if not is_draft and not _STORED.match(entry.name):
                    continue  # somebody else's
                age = now - entry.stat(follow_symlinks=False).st_mtime
                if age > (DRAFT_KEPT_S if is_draft else kept_s):
                    os.unlink(entry.path)
                    removed += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("uploads: old files cannot be removed: %s", error.strerror)
        return removed


def stored_name(digits: str, name: str) -> str:
    return f"{digits}-{sanitised(name)}"


def uri_of(stored: str) -> str:
    return f"workspace:{WORKSPACE}/{FOLDER}/{stored}"
