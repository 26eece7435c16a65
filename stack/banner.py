"""What a person reads when the stack is up."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from stack.application import ADMIN
from stack.secrets import Secrets

BACKENDS = {
    "docker": "containers of this machine's engine",
    "process": "local processes on this machine",
    "none": "nowhere: no workspace is started by this server",
}


def banner(*, url: str, folder: Path, secrets: Secrets, provisioner: str, is_open: bool) -> str:
    """The address, the credentials, and three commands to try. It holds secrets: not for a log."""
    token_file = _short(folder / "admin-token")
    header = "" if is_open else f' -H "Authorization: Bearer $(cat {token_file})"'
    token = "not needed: this stack is open to everybody who can reach it" if is_open else secrets.admin_token
    kept = "" if is_open else f"   (kept in {token_file})"
    backend = BACKENDS.get(provisioner, provisioner)
    return f"""
Workspace Server is running at {url}

  API            {url}   (a canvas is pointed at this address)
  Admin console  {url}/console/   login {ADMIN}, password {secrets.admin_password}
  Admin token    {token}{kept}
  Agents run as  {backend} (PROVISIONER={provisioner})
  Log            {_short(folder / "stack.log")}; Ctrl-C or `make down` stops everything

Try, in another terminal:

  curl -s{header} {url}/workspaces
  curl -s{header} -H "Content-Type: application/json" -d '{{"name":"hello"}}' {url}/workspaces
  curl -s{header} {url}/workspaces/<id>      # watch it: put in the id of the answer before
"""


def _short(path: Path) -> str:
    """Relative to where the person stands when that is shorter; quoted for a shell when it must be."""
    relative = os.path.relpath(path)
    text = relative if len(relative) < len(str(path)) else str(path)
    return shlex.quote(text)
