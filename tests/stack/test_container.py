"""The entry point of the image: from root to the service's account."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from stack.application import PROJECT

PROGRAM = """
import os, sys
from pathlib import Path
from stack.container import become_service
become_service(sys.argv[1], Path(sys.argv[2]))
print(os.getuid(), os.getgid(), sorted(os.getgroups()))
"""


def become(account: str, socket: Path) -> str:
    words = [sys.executable, "-c", PROGRAM, account, str(socket)]
    return subprocess.check_output(words, cwd=PROJECT, text=True, timeout=60).strip()


def own() -> str:
    return f"{os.getuid()} {os.getgid()} {sorted(os.getgroups())}"


@pytest.mark.parametrize("group", [None, 4242])
def test_root_becomes_the_account_and_joins_the_sockets_group(tmp_path, group):
    socket = tmp_path / "engine.sock"
    nobody = pwd.getpwnam("nobody")
    if os.geteuid() != 0:  # only root can become somebody else
        assert become("nobody", socket) == own()
        return
    if group is not None:
        socket.touch()
        os.chown(socket, 0, group)
    groups = sorted({nobody.pw_gid} | ({group} if group else set()))
    assert become("nobody", socket) == f"{nobody.pw_uid} {nobody.pw_gid} {groups}"


def test_without_the_account_nothing_changes(tmp_path):
    assert become("nobody-by-that-name", tmp_path / "engine.sock") == own()
