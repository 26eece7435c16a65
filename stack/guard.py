"""The net under the supervisor: when it is killed, nothing of its stack keeps running (Linux).

The kernel sends each child its death signal, but not the children of children: agents, pool workers. The
guard's own death signal is SIGTERM, on which it cleans up; an ordinary stop sends it SIGINT."""

from __future__ import annotations

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


def watch(folder: Path) -> None:
    """Wait for the supervisor's end and clean up after it, unless somebody already runs the stack again."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    print("watching", flush=True)
    if signal.sigwait({signal.SIGTERM, signal.SIGINT}) == signal.SIGINT:
        return
    lock = Lock.take(folder, "the guard cleans up")
    if lock is None:
        return
    try:
        deadline = time.monotonic() + LET_GO_S
        while processes.belonging_to(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
        processes.end(processes.belonging_to(folder), GRACE_S)
        (folder / "url").unlink(missing_ok=True)
    finally:
        lock.release()
