"""Plugins of a workspace: folders below `/configs/plugins` that its agent reads when it starts.

Source: docs/reference/templates.md, Plugins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog
from django.db import DatabaseError, InterfaceError

from config.errors import BadRequest, DomainError, Internal, NotFound
from provisioning.backends.base import BackendError, FileError, FileProblem
from provisioning.services import files
from provisioning.services.restarts import Trigger, request_restart
from templates.allowlists import check_allowed
from templates.copying import CannotCopy, folder_files
from templates.plugins import MANIFEST, SCHEME, Plugin, described, plugin_folder
from workspaces.models import Workspace
from workspaces.slugs import is_plugin_name

log = structlog.get_logger(__name__)

FOLDER = "plugins"
_FAILURES = (FileError, BackendError, DomainError, DatabaseError, InterfaceError)


def installed(workspace: Workspace) -> list[Plugin]:
    """By name. Raises BackendError, FileError."""
    try:
        entries, _ = files.list_files(workspace, files.CONFIGS, FOLDER, 1)
    except FileError as error:
        if error.problem != FileProblem.MISSING:
            raise
        return []
    return [_described(workspace, one.path) for one in entries if one.is_folder]


def install(workspace: Workspace, source: str, *, actor: str) -> str:
    """Copy the plugin that `source` (`local://<name>`) names, and restart with it; returns its name.

    Raises BadRequest, NotFound, Internal, Forbidden or Unavailable by the org's allowlist, and as
    `files.write_files`.
    """
    folder = folder_of(source)
    check_allowed(workspace.pk, folder.name)
    try:
        found = folder_files(folder)
    except CannotCopy as error:
        log.warning("plugin.not_copied", plugin=folder.name, error=str(error))
        raise Internal("failed to install plugin") from None
    contents = {f"{FOLDER}/{folder.name}/{path}": content for path, content in found.items()}
    files.write_files(workspace, files.CONFIGS, contents, actor=actor)
    request_restart(workspace.pk, Trigger.MUTATION, f"plugin:{folder.name}")
    return folder.name


def install_missing(
    workspace: Workspace, names: Sequence[str], *, actor: str
) -> tuple[list[str], dict[str, str]]:
    """Install those that the workspace lacks; others that it has stay.

    Returns the names installed, and why others were not: one that fails stops no other.
    """
    added: list[str] = []
    failed: dict[str, str] = {}
    if not names or not workspace.is_managed:
        return added, failed
    try:
        present = {one.name for one in installed(workspace)}
    except _FAILURES as error:
        log.warning("plugins.unknown", workspace_id=str(workspace.pk), error=str(error))
        return added, dict.fromkeys(names, "the workspace's plugins cannot be listed now")
    for name in names:
        if name in present:
            continue
        try:
            install(workspace, f"{SCHEME}://{name}", actor=actor)
        except _FAILURES as error:
            log.warning("plugin.not_installed", workspace_id=str(workspace.pk), plugin=name, error=str(error))
            failed[name] = error.text if isinstance(error, DomainError) else "it cannot be installed now"
        else:
            added.append(name)
    return added, failed


def uninstall(workspace: Workspace, name: str, *, actor: str) -> None:
    """Raises NotFound, and as `files.delete_file`."""
    if name not in {one.name for one in installed(workspace)}:
        raise NotFound("plugin not found")
    files.delete_file(workspace, files.CONFIGS, f"{FOLDER}/{name}", recursive=True, actor=actor)
    request_restart(workspace.pk, Trigger.MUTATION, f"plugin:{name}")


def folder_of(source: str) -> Path:
    """Raises BadRequest for a source of another kind, NotFound for an unknown plugin."""
    scheme, separator, name = source.strip().partition("://")
    if scheme != SCHEME or not separator or not is_plugin_name(name):
        raise BadRequest(f"unknown plugin source; this server knows {SCHEME}://<name>")
    folder = plugin_folder(name)
    if folder is None:
        raise NotFound("plugin not found")
    return folder


def _described(workspace: Workspace, name: str) -> Plugin:
    try:
        return described(name, files.read_file(workspace, files.CONFIGS, f"{FOLDER}/{name}/{MANIFEST}")[0])
    except FileError:
        return Plugin(name)
