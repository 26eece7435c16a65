"""The net under the supervisor: when it is killed, nothing of its stack keeps running (Linux).

The kernel sends each child its death signal, but not the children of children: agents, pool workers. The
guard's own death signal is SIGTERM, on which it cleans up; an ordinary stop sends it SIGINT."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from stack import processes
from stack.application import PROJECT
from stack.lock import Lock
from stack.supervisor import Service

LET_GO_S = 5.0  # for what got its own death signal and ends by itself
GRACE_S = 5.0


def service(folder: Path, environment: Mapping[str, str]) -> Service:
    return Service(
        name="guard",
        command=[sys.executable, "-m", "stack", "guard", "--data-dir", str(folder)],
        # Without the mark: the next supervisor must not take it for a leftover while it cleans up.
        environment={name: value for name, value in environment.items() if name != processes.MARK},
        cwd=PROJECT,
        ready_line="watching",
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGTERM,
    )


def watch(folder: Path) -> int:
    """Wait for the supervisor's end and clean up after it, unless the stack already runs again."""
    supervisor = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    print("watching", flush=True)
    if signal.sigwait({signal.SIGTERM, signal.SIGINT}) == signal.SIGINT:
        return 0
    lock = _take_over(folder, supervisor)
    if lock is None:
        return 0
    try:
        processes.end(processes.agents_of(folder), GRACE_S)  # nobody else tells them
        deadline = time.monotonic() + LET_GO_S
        while processes.belonging_to(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
        processes.end(processes.belonging_to(folder), GRACE_S)
        (folder / "url").unlink(missing_ok=True)
    finally:
        lock.release()
    return 0


def _take_over(folder: Path, supervisor: int) -> Lock | None:
    """The lock of the killed supervisor; None when another one has it, or this one lives after all.

    The signal comes with the end of one thread of the supervisor; its lock is free after the last one's."""
    deadline = time.monotonic() + LET_GO_S
    while (lock := Lock.take(folder, "the guard cleans up")) is None:
        if Lock.holder(folder) != supervisor or time.monotonic() > deadline:
            return None
        time.sleep(0.02)
    return lock
