"""Plugins that workspaces can be given: folders with a `plugin.yaml`.

Source: docs/reference/templates.md, Plugins.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from templates.copying import folder_files
from templates.folders import UnsafePath, plugins_root, resolve_inside_root, subfolders
from templates.loader import TemplateError, load_file, load_text
from workspaces.slugs import is_plugin_name

log = structlog.get_logger(__name__)

MANIFEST = "plugin.yaml"
SCHEME = "local"


@dataclass(frozen=True)
class Plugin:
    """`runtimes` empty: every runtime."""

    name: str
    version: str = ""
    description: str = ""
    author: str = ""
    tags: Sequence[str] = ()
    skills: Sequence[str] = ()
    runtimes: Sequence[str] = ()

    def supports(self, runtime: str) -> bool:
        return not self.runtimes or runtime.replace("_", "-") in self.runtimes

    def shown(self) -> dict[str, Any]:
        lists = {"tags": list(self.tags), "skills": list(self.skills), "runtimes": list(self.runtimes)}
        texts = {"version": self.version, "description": self.description, "author": self.author}
        return {"name": self.name, **texts, **lists}


def installable() -> list[Plugin]:
    """Every plugin of this deployment by name; a broken one is left out and logged."""
    found = []
    for folder in subfolders(plugins_root()):
        if not is_plugin_name(folder.name):
            continue
        try:
            found.append(_described(folder.name, load_file(folder, MANIFEST)))
        except TemplateError as error:
            log.warning("plugin.broken", plugin=folder.name, error=str(error))
    return found


def described(name: str, manifest: bytes) -> Plugin:
    """What a workspace's copy says of itself; only its name when that cannot be read."""
    try:
        return _described(name, load_text(manifest, MANIFEST))
    except TemplateError:
        return Plugin(name)


def plugin_folder(name: str) -> Path | None:
    """The folder of an installable plugin."""
    if not is_plugin_name(name):
        return None
    try:
        folder = resolve_inside_root(plugins_root(), name)
    except UnsafePath:
        return None
    return folder if (folder / MANIFEST).is_file() else None


def packed(folder: Path) -> bytes:
    """The folder as a gzip of a tar, the same bytes for the same files. Raises CannotCopy."""
    packet = io.BytesIO()
    with tarfile.open(fileobj=packet, mode="w") as archive:
        for path, content in folder_files(folder).items():
            entry = tarfile.TarInfo(f"{folder.name}/{path}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packet.getvalue(), mtime=0)


def _described(name: str, manifest: Any) -> Plugin:
    """The folder's name counts: it is what installs and removes a plugin."""
    given = manifest if isinstance(manifest, Mapping) else {}
    texts = {key: str(given.get(key) or "") for key in ("version", "description", "author")}
    lists = {key: _texts(given.get(key)) for key in ("tags", "skills", "runtimes")}
    lists["runtimes"] = [one.replace("_", "-") for one in lists["runtimes"]]
    return Plugin(name, **texts, **lists)  # type: ignore[arg-type]


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
