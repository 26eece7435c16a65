"""Packages of the system that tests need, installed where we may: as root on Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

INSTALL_S = 600


def install(package: str, command: str, say: Callable[[str], None]) -> bool:
    """Whether `command` is there; `package` is installed for it when it is not. What fails is said."""
    if shutil.which(command):
        return True
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say(f"Installing Debian's {package} for the tests ...")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in ("update", f"install --yes --no-install-recommends {package}"):
        try:
            done = subprocess.run(
                ["apt-get", "--quiet", *words.split()],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            say(f"apt-get {words} took longer than {INSTALL_S} s.")
            return False
        if done.returncode != 0:
            say(f"apt-get {words} failed: {done.stderr.strip()[-500:]}")
            return False
    return shutil.which(command) is not None
