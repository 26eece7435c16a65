"""Where a start takes its config files from. Source: docs/reference/templates.md, Config sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from templates.configs import text_of, workspace_config
from templates.copying import BUNDLE_BYTES, CannotCopy, folder_files
from templates.folders import CONFIG_FILE, UnsafePath, configs_root, org_root, resolve_inside_root, subfolders
from templates.listing import template_config, template_folder
from templates.loader import TemplateError
from templates.services import stored_files
from templates.writer import dumped
from workspaces.models import Workspace
from workspaces.slugs import is_template_name

log = structlog.get_logger(__name__)

STORED = "existing-volume"  # no source: what the workspace has stored stays
_ORG = "org-templates/"
_LEGACY = "ws-"  # folders that earlier releases made of workspaces


class NoSource(Exception):
    """A source that is gone or broken; the text is shown to people."""


def restart_label(
    workspace: Workspace, *, template: str = "", apply_template: bool = False, rebuild_config: bool = False
) -> str:
    """The source that a restart with these wishes applies; STORED when it applies none."""
    if template:
        if _installed(template):
            return template
        log.warning("restart.template_ignored", workspace_id=str(workspace.pk))
    if apply_template and (found := _matching(configs_root(), workspace.name)):
        return found
    if rebuild_config and (found := _matching(org_root(), workspace.name)):
        return _ORG + found
    return (apply_template and _of_runtime(workspace.runtime)) or STORED


def first_label(workspace: Workspace) -> str:
    """The source of a workspace nobody chose one for; STORED when only a generated config is left."""
    chosen = workspace.template or ""
    return chosen if chosen and _installed(chosen) else _of_runtime(workspace.runtime) or STORED


def start_files(workspace: Workspace, chosen: str | None, *, model: str) -> dict[str, tuple[bytes, bool]]:
    """Content by path, and whether it may replace what the workspace has: only what a person chose may.

    Stored files lie above the workspace's own source and below a chosen one. Raises NoSource: an agent that
    starts with a part of its configuration is worse than one that does not.
    """
    stored = stored_files(workspace.pk)
    of_source = source_files(workspace, chosen or first_label(workspace), model=model)
    if chosen:
        kept = {path: content for path, content in stored.items() if path not in of_source}
        found = {path: (content, True) for path, content in of_source.items()}
    else:
        kept = stored
        found = {path: (content, False) for path, content in of_source.items() if path not in stored}
    found |= {path: (content, False) for path, content in kept.items() if content is not None}
    if sum(len(content) for content, _ in found.values()) > BUNDLE_BYTES:
        raise NoSource(f"the config files together are larger than {BUNDLE_BYTES} bytes")
    return found


def source_files(workspace: Workspace, label: str, *, model: str) -> dict[str, bytes]:
    """The files of the source `label`; its config.yaml says what the workspace is. Raises NoSource."""
    folder = None if label == STORED else _folder(label)
    try:
        files = folder_files(folder) if folder else {}
        base = template_config(folder) if folder and CONFIG_FILE in files else {}
    except CannotCopy as error:
        raise NoSource(f"template {label} cannot be copied: {error}") from None
    except TemplateError as error:
        raise NoSource(f"template {label} cannot be used: {error}") from None
    return {**files, CONFIG_FILE: config_text(workspace, base, model=model).encode()}


def config_text(workspace: Workspace, base: Mapping[str, Any], *, model: str) -> str:
    return dumped(
        workspace_config(
            base,
            name=workspace.name,
            role=workspace.role or "",
            tier=workspace.tier,
            runtime=workspace.runtime,
            model=model or None,
        )
    )


def _folder(label: str) -> Path:
    root, name = (org_root(), label.removeprefix(_ORG)) if label.startswith(_ORG) else (configs_root(), label)
    try:
        folder = resolve_inside_root(root, name)
    except UnsafePath:
        folder = None
    if folder is None or not is_template_name(name) or not folder.is_dir():
        raise NoSource(f"template {label!r} is not installed any more; choose another one and restart")
    return folder


def _installed(name: str) -> bool:
    try:
        return template_folder(name) is not None
    except UnsafePath:
        return False


def _of_runtime(runtime: str) -> str:
    return next((name for name in (f"{runtime}-default", runtime) if _installed(name)), "")


def _matching(root: Path, name: str) -> str:
    """The folder called like a workspace, else one whose config is; '' for none."""
    slug = "-".join(name.lower().split())
    names = [one.name for one in subfolders(root) if is_template_name(one.name)]
    names = [one for one in names if not one.startswith(_LEGACY)]
    if slug in names:
        return slug
    return next((one for one in names if _calls_itself(root / one, name)), "")


def _calls_itself(folder: Path, name: str) -> bool:
    if not (folder / CONFIG_FILE).is_file():
        return False
    try:
        return text_of(template_config(folder).get("name")).lower() == name.strip().lower()
    except TemplateError:
        return False
