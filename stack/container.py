"""One process of the product in a container: checked first, then in place of us."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import NoReturn

from stack.application import PROCESSES, PROJECT, command, manage
from stack.errors import StackError

ROLES = (*PROCESSES, "migrate")
EVERY_ADDRESS = "0.0.0.0"
LOCK_TIMEOUT_S = "3"  # a busy table fails the deploy, and not the users


def serve(role: str, port: int) -> NoReturn:
    """Become the process `role`, which may listen on `port`. Raises StackError when a check fails.

    Servers and workers do not stop on a failed system check by themselves, so it comes first."""
    os.chdir(PROJECT)
    _require(manage("check", "--deploy", "--database", "default"), "a system check failed")
    if role == "migrate":
        os.environ.setdefault("DATABASE_LOCK_TIMEOUT_S", LOCK_TIMEOUT_S)
        _require(manage("migrate", "--noinput"), "a migration failed")
        if os.environ.get("DJANGO_SUPERUSER_PASSWORD"):
            _require(manage("ensure_admin"), "the admin login could not be created")
        raise SystemExit(0)
    words = command(role, host=EVERY_ADDRESS, port=port)
    os.execv(words[0], words)  # noqa: S606  (no shell)


def _require(words: Sequence[str], otherwise: str) -> None:
    if subprocess.run(words, check=False).returncode != 0:
        raise StackError(f"Not started: {otherwise}; the reason is above.")
