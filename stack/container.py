"""One process of the product in a container: checked first, then in place of us."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from stack.application import PROCESSES, PROJECT, command, manage
from stack.errors import StackError

MEMORY_PLUGIN = "memory-plugin"
ROLES = (*PROCESSES, "migrate", MEMORY_PLUGIN)
EVERY_ADDRESS = "0.0.0.0"
SERVICE = "workspace"  # the account of the image
ENGINE_SOCKET = Path("/var/run/docker.sock")
LOCK_TIMEOUT_S = "3"  # a busy table fails the deploy, and not the users


def serve(role: str, port: int) -> NoReturn:
    """Become the process `role`, which may listen on `port`. Raises StackError when a check fails.

    Servers and workers do not stop on a failed system check by themselves, so it comes first."""
    os.chdir(PROJECT)
    become_service()
    if role == MEMORY_PLUGIN:  # knows nothing of the product's settings
        words = manage("memory_plugin")
        os.execv(words[0], words)  # noqa: S606  (no shell)
    _require(manage("check", "--deploy", "--database", "default"), "a system check failed")
    if role == "migrate":
        os.environ.setdefault("DATABASE_LOCK_TIMEOUT_S", LOCK_TIMEOUT_S)
        _require(manage("migrate", "--noinput"), "a migration failed")
        _require(manage("memory_enable_vector"), "vectors are required and cannot be had")
        if os.environ.get("DJANGO_SUPERUSER_PASSWORD"):
            _require(manage("ensure_admin"), "the admin login could not be created")
        raise SystemExit(0)
    words = command(role, host=EVERY_ADDRESS, port=port)
    os.execv(words[0], words)  # noqa: S606  (no shell)


def become_service(account: str = SERVICE, socket: Path = ENGINE_SOCKET) -> None:
    """Started as root in the image: go on as `account`, in the group of the engine's socket if there is one.

    Which group that is, only the machine that mounts the socket knows. Without the account nothing happens.
    """
    try:
        service = pwd.getpwnam(account)
    except KeyError:
        return
    if os.geteuid() != 0:
        return
    groups = {service.pw_gid, socket.stat().st_gid} if socket.exists() else {service.pw_gid}
    os.setgroups(sorted(groups))
    os.setgid(service.pw_gid)
    os.setuid(service.pw_uid)
    os.environ["HOME"] = service.pw_dir


def _require(words: Sequence[str], otherwise: str) -> None:
    if subprocess.run(words, check=False).returncode != 0:
        raise StackError(f"Not started: {otherwise}; the reason is above.")
