"""One supervisor per data folder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

CLEANING_S = 40.0  # the guard of a killed supervisor may hold the lock for so long


class Lock:
    """The lock of one data folder. The kernel frees it when its holder is gone, however it ended."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, note: str) -> Lock | None:
        """Take the lock and leave `note` (a pid) for others to read; None when somebody has it."""
        path = folder / "stack.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                break
            os.close(descriptor)  # its holder has just removed this file: the next one counts
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note.encode(), 0)
        return cls(path, descriptor)

    @classmethod
    def take_or_holder(cls, folder: Path) -> Lock | int:
        """Take the lock for this process, or say which process has it; waits while a guard cleans up."""
        deadline = time.monotonic() + CLEANING_S
        while (lock := cls.take(folder, str(os.getpid()))) is None:
            holder = cls.holder(folder)
            if holder is not None or time.monotonic() > deadline:
                return holder or 0
            time.sleep(0.1)
        return lock

    @staticmethod
    def holder(folder: Path) -> int | None:
        """The pid in the lock file; None without one."""
        try:
            return int((folder / "stack.lock").read_text())
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
