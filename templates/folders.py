"""Where templates and plugins lie, and the one way to turn a name from outside into a path below them.

Source: docs/reference/templates.md, Folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from django.conf import settings

CONFIG_FILE = "config.yaml"
_DEFAULT = "workspace-configs-templates"
_DRIVE = re.compile(r"[A-Za-z]:")
PATH_BYTES, SEGMENT_BYTES = 512, 255


class UnsafePath(ValueError):
    """A path that is none, or leads out of its folder; the text names what is wrong and no path."""


def configs_root() -> Path:
    """Folder of the workspace templates; it need not exist."""
    if settings.CONFIGS_DIR:
        return Path(settings.CONFIGS_DIR)
    nearby = (Path(prefix) / _DEFAULT for prefix in ("", "..", "../.."))
    return next((folder for folder in nearby if _has_templates(folder)), Path(_DEFAULT))


def org_root() -> Path:
    return Path(settings.ORG_TEMPLATES_DIR or configs_root() / ".." / "org-templates")


def plugins_root() -> Path:
    return Path(settings.PLUGINS_DIR or configs_root() / ".." / "plugins")


def subfolders(root: Path) -> Iterator[Path]:
    """The folders directly below `root` by name, without hidden ones; none when it is missing."""
    try:
        names = sorted(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        folder = root / name
        if not name.startswith(".") and folder.is_dir() and not folder.is_symlink():
            yield folder


def resolve_inside_root(root: Path, relative: str, *, base: Path | None = None) -> Path:
    """The real path of `relative`, strictly below the real `root`; it need not exist.

    `base` is a folder inside `root` that `relative` starts from. Raises UnsafePath.
    """
    if not relative or "\x00" in relative or "\\" in relative:
        raise UnsafePath("is empty or holds characters no path may have")
    if relative.startswith("/") or _DRIVE.match(relative):
        raise UnsafePath("must be relative")
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(base or root, relative))
    if not real.startswith(os.path.join(real_root, "")) or real == real_root:
        raise UnsafePath("leads out of its folder")
    return Path(real)


def plain_path(text: str) -> str:
    """`text` as a relative path without `..`, `.` and doubled slashes. Raises UnsafePath."""
    has_control = any(ord(char) < 32 or ord(char) == 127 for char in text)
    if has_control or "\\" in text or text.startswith("/") or _DRIVE.match(text):
        raise UnsafePath("is no relative path")
    parts = PurePosixPath(text).parts
    if not parts or ".." in parts:
        raise UnsafePath("is empty or leads upwards")
    plain = "/".join(parts)
    if len(plain.encode()) > PATH_BYTES or any(len(part.encode()) > SEGMENT_BYTES for part in parts):
        raise UnsafePath("is too long")
    return plain


def _has_templates(folder: Path) -> bool:
    return any((one / CONFIG_FILE).is_file() for one in subfolders(folder))
