"""The files beside an org.yaml that its nodes point at; an inline template has none.

Source: docs/reference/orgimport.md, Files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orgimport.env_files import ENV_FILE, parse
from orgimport.fields import Findings
from templates.folders import UnsafePath, resolve_inside_root

TEXT_BYTES = 1024 * 1024
INLINE = "an inline template has no files"


class Folder:
    """One template's folder; whatever cannot be read is a problem of the node that points at it."""

    def __init__(self, root: Path | None, findings: Findings) -> None:
        self.root = root
        self._findings = findings
        self._env: dict[str | None, dict[str, str]] = {}

    def is_directory(self, relative: str, path: str, key: str) -> bool:
        found = self._resolved(relative, None, path, key)
        if found is not None and not found.is_dir():
            self._findings.problem(path, key, "the folder does not exist")
            return False
        return found is not None

    def text(self, relative: str, base: str | None, path: str, key: str) -> str:
        """The text of a file, starting from the folder `base`; '' and a problem when it cannot be read."""
        found = self._resolved(relative, base, path, key)
        content = _content(found) if found else b""
        if content is None:
            self._findings.problem(path, key, "the file is missing, too large or no UTF-8 text")
            return ""
        return content.decode("utf-8")

    def quiet_text(self, relative: str, base: str | None) -> str | None:
        """The text of a file whose absence is no problem of the template; None when it cannot be read."""
        if self.root is None:
            return None
        try:
            found = resolve_inside_root(self.root, relative, base=self.root / base if base else None)
        except (UnsafePath, OSError, UnicodeEncodeError):
            return None
        content = _content(found)
        return None if content is None else content.decode("utf-8")

    def env(self, files_dir: str | None, path: str) -> dict[str, str]:
        """The pairs of the template's env file, overlaid by those of the node's own."""
        if files_dir not in self._env:
            above = {} if files_dir is None else self.env(None, "")
            relative = ENV_FILE if files_dir is None else f"{files_dir}/{ENV_FILE}"
            self._env[files_dir] = {**above, **self._pairs(relative, path)}
        return self._env[files_dir]

    def _pairs(self, relative: str, path: str) -> dict[str, str]:
        if self.root is None or not os.path.lexists(self.root / relative):
            return {}
        found = self._resolved(relative, None, path, ENV_FILE)
        content = _content(found) if found else b""
        if content is None:
            self._findings.problem(path, ENV_FILE, "the file is too large or no UTF-8 text")
            return {}
        pairs, complaints = parse(content.decode("utf-8"))
        for complaint in complaints:
            self._findings.problem(path, ENV_FILE, complaint)
        return pairs

    def _resolved(self, relative: str, base: str | None, path: str, key: str) -> Path | None:
        if self.root is None:
            self._findings.problem(path, key, INLINE)
            return None
        try:
            return resolve_inside_root(self.root, relative, base=self.root / base if base else None)
        except (UnsafePath, OSError, UnicodeEncodeError):
            self._findings.problem(path, key, "the path leads out of the template or is no path")
            return None


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as stored:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            content = stored.read(TEXT_BYTES + 1)
        content.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if len(content) > TEXT_BYTES or b"\x00" in content else content
