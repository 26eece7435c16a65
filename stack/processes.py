"""Which processes belong to a data folder, and how they end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARK = "WORKSPACE_STACK"  # in the environment of everything we start: the data folder it belongs to
SERVERS = {
    "postgres": "postgres",
    "nginx": "nginx",
    "valkey-server": "valkey",
}  # process name -> folder it stays in
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: the child gets `death_signal` when the calling thread ends, however that ends; Linux.

    It must run after a change of user, which makes the kernel forget the wish: so does `subprocess`."""
    parent = os.getpid()

    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # the parent died between fork and prctl

    return prepare


def belonging_to(folder: Path) -> list[psutil.Process]:
    """Every process started for the data folder `folder` (absolute), without the caller and its ancestors."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process for process in psutil.process_iter() if process.pid not in own and _belongs(process, folder)
    ]


def agents_of(folder: Path) -> list[psutil.Process]:
    """The agents in `folder`/workspaces; workers start them in sessions of their own."""
    return [process for process in belonging_to(folder) if _is_agent(process, folder)]


def end(processes: Iterable[psutil.Process], grace_s: float = 5.0) -> int:
    """Ask `processes` to end, kill those that are still there after `grace_s`; return how many there were."""
    victims = list(processes)
    for process in victims:
        _send(process, signal.SIGINT if _name(process) == "postgres" else signal.SIGTERM)
    for process in _wait(victims, grace_s):
        _send(process, signal.SIGKILL)
    _wait(victims, grace_s)
    return len(victims)


def runs(process: psutil.Process) -> bool:
    """False for one that ended, even if its parent has not asked for its status yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end_group(leader: int) -> None:
    """Kill what is left of the process group that `leader` led, such as the workers of a killed server."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        if not runs(process):
            return False
        if (place := SERVERS.get(process.name())) is not None:  # these overwrite their environment
            return process.cwd() == str(folder / place)
        return process.environ().get(MARK) == str(folder) or _is_agent(process, folder)
    except (psutil.Error, OSError):
        return False  # gone meanwhile, or somebody else's


def _is_agent(process: psutil.Process, folder: Path) -> bool:
    try:
        inside = any(word.startswith(f"{folder}/workspaces/") for word in process.cmdline())
        return inside and process.terminal() is None  # an editor opened on these files has a terminal
    except (psutil.Error, OSError):
        return False


def _wait(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Those that still run after `within_s`."""
    deadline = time.monotonic() + within_s
    while (running := [process for process in processes if runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return running


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _send(process: psutil.Process, what: signal.Signals) -> None:
    try:
        process.send_signal(what)
    except psutil.Error:
        pass
