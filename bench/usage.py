"""How long the stack's processes worked, by program: where a request's time goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from stack.processes import belonging_to

PROGRAMS = ("granian", "uvicorn", "celery")


@contextmanager
def measured(folder: Path | None) -> Iterator[dict[str, float]]:
    """Yields processor seconds by program, filled in when the block ends; empty without a folder."""
    spent: dict[str, float] = {}
    if folder is None:
        yield spent
        return
    watched = belonging_to(folder)
    before = {process.pid: _seconds(process) for process in watched}
    yield spent
    sums: dict[str, float] = {}
    for process in watched:
        name, worked = program(process), _seconds(process) - before[process.pid]
        sums[name] = sums.get(name, 0.0) + max(0.0, worked)
    spent.update(sums)


def program(process: psutil.Process) -> str:
    """`granian`, `postgres`, ...; `other` for what is gone."""
    try:
        words = process.cmdline()
        return next((name for name in PROGRAMS if name in words), process.name())
    except psutil.Error:
        return "other"


def realtime(folder: Path) -> list[psutil.Process]:
    """The processes that hold the sockets."""
    return [process for process in belonging_to(folder) if program(process) == "uvicorn"]


def files(folder: Path) -> psutil.Process | None:
    """The process that serves bodies: the only worker of its pool."""
    for process in belonging_to(folder):
        try:
            words = process.cmdline()
            if "granian" in words and words[words.index("--workers") + 1] == "1":
                children = process.children()
                return max(children, key=lambda one: one.memory_info().rss, default=None)
        except (psutil.Error, ValueError):
            continue
    return None


def begin_peak(process: psutil.Process) -> int:
    """Its memory now, KiB; its peak begins anew. Linux."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return _status_kib(process, "VmRSS")


def peak_kib(process: psutil.Process) -> int:
    """The most memory it had since, KiB."""
    return _status_kib(process, "VmHWM")


def _status_kib(process: psutil.Process, name: str) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
