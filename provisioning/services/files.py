"""A workspace's files as people read and edit them, whatever its backend and whether it runs or not.

Where the storage outlives the compute they are changed in place. Where it does not, `/configs` is what the
next start brings, and an edit is kept for that start. Source: docs/reference/files.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from uuid import UUID

import structlog

from config.errors import Conflict, NotFound, Unavailable
from config.threads import release_connection
from provisioning import dispatch
from provisioning.backends.base import (
    NO_FILE,
    NO_STORAGE,
    BackendError,
    ComputeState,
    Entry,
    File,
    FileError,
    FileProblem,
)
from provisioning.preparation import chosen_model
from templates.configs import imported_config
from templates.folders import CONFIG_FILE
from templates.services import TEXT_BYTES, forget_files, store_files
from templates.sources import NoSource, start_files
from workspaces.defaults import default_model, default_tier
from workspaces.models import Workspace

log = structlog.get_logger(__name__)

ROOTS = ("/configs", "/workspace", "/home", "/plugins")
CONFIGS = ROOTS[0]
READ_BYTES = 5 * 1024 * 1024
DEEPEST = 5
# Of the runtime, of other tools, or credentials of the running agent: neither shown nor touched.
HIDDEN = frozenset({
    ".git", "__pycache__", "node_modules", ".DS_Store", ".hermes", ".auth_token", ".platform_inbound_secret",
})  # fmt: skip
CONTAINER, VOLUME, TEMPLATE, NONE = "container", "volume", "template", "none"


def list_files(workspace: Workspace, root: str, path: str, depth: int) -> tuple[list[Entry], str]:
    """The entries below `path` ("" for the root), and where they were seen.

    Raises FileError, BackendError.
    """
    if _is_hidden(path):
        raise _missing()
    if not workspace.is_managed:
        return [], NONE
    if not dispatch.has_provisioner() and not path:
        return [], NONE
    try:
        if not _keeps_files():
            raise FileError(FileProblem.UNAVAILABLE, NO_STORAGE)
        release_connection()
        found, source = dispatch.list_files(workspace.pk, root, path, depth), _seen_in(workspace.pk)
    except FileError as error:
        if error.problem != FileProblem.UNAVAILABLE or root != CONFIGS:
            raise
        found, source = _below(_of_next_start(workspace), path, depth), TEMPLATE
    return [one for one in found if not _is_hidden(one.path)], source


def read_file(workspace: Workspace, root: str, path: str) -> tuple[bytes, str]:
    """The exact bytes, and where they were read. Raises FileError, BackendError."""
    if _is_hidden(path) or not workspace.is_managed:
        raise _missing()
    try:
        if not _keeps_files():
            raise FileError(FileProblem.UNAVAILABLE, NO_STORAGE)
        release_connection()
        return dispatch.read_file(workspace.pk, root, path, READ_BYTES), _seen_in(workspace.pk)
    except FileError as error:
        if error.problem != FileProblem.UNAVAILABLE or root != CONFIGS:
            raise
    files = _of_next_start(workspace)
    if path not in files:
        is_folder = any(one.startswith(f"{path}/") for one in files)
        raise FileError(FileProblem.IS_FOLDER, "path is a directory") if is_folder else _missing()
    return files[path], TEMPLATE


def config_files(workspace: Workspace) -> dict[str, bytes]:
    """Every file below the config folder that a text file may be as large as, by path, however deep.

    Raises Unavailable when one of them cannot be read: a part would pass for the whole.
    """
    try:
        files = [one for one in _every(workspace) if not one.is_folder]
        for one in files:
            if one.size > TEXT_BYTES:
                log.info("workspace_file.too_large", workspace_id=str(workspace.pk), path=one.path)
        paths = [one.path for one in files if one.size <= TEXT_BYTES]
        return {path: read_file(workspace, CONFIGS, path)[0] for path in paths}
    except BackendError as error:
        log.warning(
            "workspace_file.unreadable", workspace_id=str(workspace.pk), error=error.detail or str(error)
        )
        raise Unavailable(NO_STORAGE) from None


def _every(workspace: Workspace, path: str = "") -> Iterator[Entry]:
    """All entries below `path` of the config folder; a listing ends after `DEEPEST` levels, this does not."""
    entries, _ = list_files(workspace, CONFIGS, path, DEEPEST)
    top = f"{path}/" if path else ""
    for one in entries:
        yield Entry(f"{top}{one.path}", one.size, is_folder=one.is_folder)
        if one.is_folder and one.path.count("/") == DEEPEST - 1:
            yield from _every(workspace, f"{top}{one.path}")


def write_files(
    workspace: Workspace,
    root: str,
    files: Mapping[str, bytes],
    *,
    seeds: Mapping[str, bytes] | None = None,
    actor: str,
) -> str:
    """Write or replace `files`, none of the others, and of `seeds` what is not there; returns where.

    Raises FileError, BackendError, Conflict, NotFound, Unavailable.
    """
    _may_change(workspace, files)
    if root == CONFIGS and any(path.startswith(f"{CONFIG_FILE}/") for path in files):
        raise FileError(FileProblem.IS_FILE, "path is not a directory")  # also before there is one
    if _keeps_files():
        release_connection()
        wanted = {path: File(content, seed=True) for path, content in (seeds or {}).items()}
        wanted |= {path: File(content) for path, content in files.items()}
        dispatch.write_files(workspace.pk, root, wanted)
        forget_files(workspace.pk, _stored_paths(root, files))  # of what was deleted once, it is back
        source = _seen_in(workspace.pk)
    else:
        _keep_for_next_start(workspace, root, dict(files))
        source = VOLUME
    for path, content in files.items():
        log.info("workspace_file.saved", workspace_id=str(workspace.pk), root=root, path=path,
                 size=len(content), actor=actor)  # fmt: skip
    return source


def overlay_configs(workspace: Workspace, files: Mapping[str, bytes], *, actor: str) -> str:
    """Many config files at once; a workspace that has no config.yaml then gets a generated one."""
    text = imported_config(
        name=workspace.name,
        files=list(files),
        tier=default_tier(),
        runtime=workspace.runtime,
        model=chosen_model(workspace.pk) or default_model(workspace.runtime),
    )
    return write_files(workspace, CONFIGS, files, seeds={CONFIG_FILE: text.encode()}, actor=actor)


def delete_file(workspace: Workspace, root: str, path: str, *, recursive: bool, actor: str) -> None:
    """Missing is a success. What a template brings is remembered as deleted: no restart brings it back.

    Raises FileError, BackendError, Conflict, NotFound, Unavailable.
    """
    _may_change(workspace, [path])
    if _keeps_files():
        release_connection()
        dispatch.delete_file(workspace.pk, root, path, recursive=recursive)
        _remember_deleted(workspace, root, path, recursive=recursive)
    elif root != CONFIGS:
        raise Unavailable(NO_STORAGE)
    else:
        if not recursive and any(one.startswith(f"{path}/") for one in _of_next_start(workspace)):
            raise FileError(FileProblem.IS_FOLDER, "path is a directory")
        _remember_deleted(workspace, root, path, recursive=recursive)
    log.info("workspace_file.deleted", workspace_id=str(workspace.pk), root=root, path=path, actor=actor)


def _missing() -> FileError:
    return FileError(FileProblem.MISSING, NO_FILE)


def _keeps_files() -> bool:
    return dispatch.offers("files")


def _may_change(workspace: Workspace, paths: Iterable[str]) -> None:
    if not workspace.is_managed:
        raise Conflict("files are not available for external workspaces")
    if not dispatch.has_provisioner():
        raise Unavailable(NO_STORAGE)
    if any(_is_hidden(path) for path in paths):
        raise NotFound(NO_FILE)


def _is_hidden(path: str) -> bool:
    return not HIDDEN.isdisjoint(PurePosixPath(path).parts)


def _seen_in(workspace_id: UUID) -> str:
    return CONTAINER if dispatch.status(workspace_id) == ComputeState.RUNNING else VOLUME


def _stored_paths(root: str, paths: Iterable[str]) -> list[str]:
    """`paths` as they are called below the config folder; those of other roots have no such name."""
    if root not in (CONFIGS, "/plugins"):
        return []
    return [path if root == CONFIGS else f"plugins/{path}" for path in paths]


# --- What the next start brings


def _of_next_start(workspace: Workspace) -> dict[str, bytes]:
    """Raises FileError when its template is gone."""
    try:
        files = start_files(workspace, None, model=chosen_model(workspace.pk))
    except NoSource as error:
        raise FileError(FileProblem.UNAVAILABLE, NO_STORAGE, detail=str(error)) from None
    return {path: content for path, (content, _) in files.items() if not _is_hidden(path)}


def _keep_for_next_start(workspace: Workspace, root: str, files: dict[str, bytes]) -> None:
    if root != CONFIGS:
        raise Unavailable(NO_STORAGE)
    existing = _of_next_start(workspace)
    for path in files:
        if any(one.startswith(f"{path}/") for one in existing):
            raise FileError(FileProblem.IS_FOLDER, "path is a directory")
        if any(str(one) in existing for one in PurePosixPath(path).parents):
            raise FileError(FileProblem.IS_FILE, "path is not a directory")
    store_files({(workspace.pk, path): content for path, content in files.items()})


def _remember_deleted(workspace: Workspace, root: str, path: str, *, recursive: bool) -> None:
    """After it was deleted. Whoever dies in between has answered nothing, and a repeat remembers it."""
    for top in _stored_paths(root, [path]):
        brought = _of_next_start(workspace)
        gone = [one for one in brought if one == top or (recursive and one.startswith(f"{top}/"))]
        # A start always writes a config.yaml.
        store_files({(workspace.pk, one): None for one in gone if one != CONFIG_FILE})


def _below(files: Mapping[str, bytes], path: str, depth: int) -> list[Entry]:
    top = f"{path}/" if path else ""
    below = {name.removeprefix(top): content for name, content in files.items() if name.startswith(top)}
    if path and not below:
        raise FileError(FileProblem.IS_FILE, "path is not a directory") if path in files else _missing()
    folders = {str(one) for name in below for one in PurePosixPath(name).parents if one.parts}
    found = [Entry(name, len(content), is_folder=False) for name, content in below.items()]
    found += [Entry(name, 0, is_folder=True) for name in folders]
    return sorted((one for one in found if one.path.count("/") < depth), key=lambda one: one.path)
