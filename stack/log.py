"""One readable log of many processes: on the terminal and in a file."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO
from zlib import crc32

LIMIT_BYTES = 20 * 1024 * 1024  # of one log file; the one before it is kept as `stack.log.1`
COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
RED = 31


class Log:
    """Lines of every process, each with the name of its process in front.

    The file gets all of them with their time. The terminal gets those of the supervisor itself, and the
    others only while `live`: during the start they would bury the progress."""

    def __init__(self, path: Path | None = None, stream: TextIO | None = None, width: int = 9) -> None:
        self.live = False
        self._stream: TextIO | None = sys.stdout if stream is None else stream
        self._coloured = bool(self._stream and self._stream.isatty())
        self._width = width
        self._path = path
        self._file: TextIO | None = None
        if path is not None:
            self._open(path)

    def line(self, source: str, text: str) -> None:
        """One line of the process `source`."""
        self._write(f"{source:<{self._width}} | {text}")
        if self.live:
            self._show(f"{self._prefix(source)} {text}")

    def say(self, text: str, *, failed: bool = False) -> None:
        """One or more lines of the supervisor's own."""
        for line in text.splitlines() or [""]:
            self._write(f"{'stack':<{self._width}} | {line}")
            if self.live:
                line = f"{self._prefix('stack')} {line}"
            self._show(f"\x1b[{RED}m{line}\x1b[0m" if failed and self._coloured else line)

    def show(self, text: str) -> None:
        """For the terminal only: a text that holds secrets."""
        self._show(text)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _prefix(self, source: str) -> str:
        prefix = f"{source:<{self._width}} |"
        colour = COLOURS[crc32(source.encode()) % len(COLOURS)]
        return f"\x1b[{colour}m{prefix}\x1b[0m" if self._coloured else prefix

    def _show(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            print(text, file=self._stream, flush=True)
        except (OSError, ValueError):
            self._stream = None  # the terminal is gone (`make up | head`); the file goes on

    def _open(self, path: Path) -> None:
        if path.exists() and path.stat().st_size > LIMIT_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        path.chmod(0o600)

    def _write(self, text: str) -> None:
        if self._file is None or self._path is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._file.write(f"{now} {text}\n")
        self._file.flush()
        if self._file.tell() > LIMIT_BYTES:
            self._file.close()
            self._open(self._path)
