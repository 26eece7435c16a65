"""System accounts for servers that refuse to run as root, and the folders these accounts must reach."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

ACCOUNT = "pgserver"


def database_account() -> str | None:
    """None unless we are root; else an unprivileged account, created when there is none yet."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(ACCOUNT).pw_name
    except KeyError:
        pass
    create = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
    try:
        subprocess.run(create, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "nobody"  # a system without useradd, or a read-only /etc
    return ACCOUNT


def group_of(account: str) -> str:
    """The name of the account's primary group; systems do not agree on what `nobody` belongs to."""
    return grp.getgrgid(pwd.getpwnam(account).pw_gid).gr_name


def make_reachable(path: Path, tell: Callable[[str], None]) -> None:
    """Let other accounts pass through (not list) the folders above `path`; `tell` each change. Needs root."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
            tell(f"{folder} may now be passed through by other accounts: the database does not run as root")


def give_folder(path: Path, account: str) -> None:
    """Make `path` and all in it the account's own, unless it is already."""
    entry = pwd.getpwnam(account)
    if path.stat().st_uid == entry.pw_uid:
        return
    for folder, _, files in os.walk(path):
        for name in (folder, *(os.path.join(folder, file) for file in files)):
            os.chown(name, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
