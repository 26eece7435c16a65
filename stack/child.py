"""One child process whose output goes to the log."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stack.errors import StartFailed
from stack.log import Log
from stack.processes import die_with_parent, end_group

TAIL_LINES = 20
LINE_LIMIT = 16_384  # bytes; a longer line is shown in pieces
DRAIN_S = 1.0  # for the last output after the end


class Child:
    """A running process, ended with us. It leads a session of its own: Ctrl-C is for the supervisor."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Log) -> None:
        self.name = name
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.line_seen = asyncio.Event()  # set by the first line that holds `awaited_line`
        self.awaited_line: str | None = None
        self._process = process
        self._log = log
        self._pump: asyncio.Task[None] | None = None

    @classmethod
    async def launch(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Log,
        environment: Mapping[str, str],
        cwd: Path,
        user: str | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
        awaited_line: str | None = None,
    ) -> Child:
        """Start `command`. Raises StartFailed when it cannot be started at all."""
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=dict(environment),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=die_with_parent(death_signal),
                **_account(user),
            )
        except OSError as error:
            os.close(reading)
            raise StartFailed(f"{name} cannot be started: {error}.", []) from error
        finally:
            os.close(writing)
        child = cls(name, process, log)
        child.awaited_line = awaited_line
        # A pipe of our own: descendants that outlive the process hold it open, and must not delay `wait`.
        child._pump = asyncio.create_task(child._read(reading))
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs, else the exit status, or minus the number of the signal."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end, take its group along and its last output in; return `status`."""
        status = await self._process.wait()
        end_group(self.pid)
        if self._pump is not None:
            await asyncio.wait({self._pump}, timeout=DRAIN_S)
            self._pump.cancel()
        return status

    async def end(self, stop_signal: signal.Signals = signal.SIGTERM, grace_s: float = 10.0) -> None:
        """Ask it to end, and kill it when it has not after `grace_s`."""
        if self.status is None:
            self._process.send_signal(stop_signal)
            try:
                await asyncio.wait_for(self._process.wait(), grace_s)
            except TimeoutError:
                self._log.say(f"{self.name} did not stop within {grace_s:g} s and is killed")
                self._process.kill()
        await self.wait()

    async def _read(self, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
        )
        rest = b""
        try:
            while chunk := await reader.read(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LINE_LIMIT:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._take(line)
            if rest:
                self._take(rest)
        finally:
            transport.close()

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace").rstrip()
        if not text:
            return
        self.tail.append(text)
        self._log.line(self.name, text)
        if self.awaited_line is not None and self.awaited_line in text:
            self.line_seen.set()


async def run_step(
    name: str, command: Sequence[str], *, log: Log, environment: Mapping[str, str], cwd: Path
) -> float:
    """Run `command` to its end; return the seconds it took. Raises StartFailed unless it ends with 0."""
    began = time.monotonic()
    child = await Child.launch(name, command, log=log, environment=environment, cwd=cwd)
    try:
        status = await child.wait()
    except asyncio.CancelledError:
        await child.end()
        raise
    if status != 0:
        raise StartFailed(f"{name} {describe(status)}.", list(child.tail))
    return time.monotonic() - began


def describe(status: int) -> str:
    """How a process ended, for a sentence that begins with its name."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _account(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
