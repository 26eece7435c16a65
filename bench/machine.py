"""The machine a figure belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from stack.processes import belonging_to

SERVERS = {"postgres": "--version", "valkey-server": "--version", "nginx": "-v"}
PACKAGES = ("django", "granian", "uvicorn", "psycopg")
CPUINFO = Path("/proc/cpuinfo")


def description(folder: Path | None) -> dict[str, str]:
    """What to know about this machine and, given its folder, about the stack's servers."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _package(name) for name in PACKAGES},
        **(_servers(folder) if folder else {}),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _cpu() -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _servers(folder: Path) -> dict[str, str]:
    """Versions of the servers that run for `folder`, asked from their own binaries."""
    found: dict[str, str] = {}
    for process in belonging_to(folder):
        try:
            name, binary = process.name(), process.exe()
        except psutil.Error:
            continue
        if name in SERVERS and name not in found:
            printed = subprocess.run([binary, SERVERS[name]], capture_output=True, text=True, check=False)
            found[name] = (printed.stdout or printed.stderr).strip().splitlines()[0]
    return found
