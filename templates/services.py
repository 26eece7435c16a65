"""Verbs over the catalogue's folder and over stored config files.

Source: docs/reference/templates.md, docs/reference/files.md.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import UUID, uuid4

import structlog
from django.db import connection, transaction

from config.errors import BadRequest, Conflict, Internal, TooLarge
from templates.configs import imported_config
from templates.folders import CONFIG_FILE, UnsafePath, configs_root, plain_path
from templates.models import WorkspaceFile
from workspaces.defaults import default_tier

log = structlog.get_logger(__name__)

MAX_FILES = 200
TEXT_BYTES = 1024 * 1024
_ID_CHARS = 100

_STORE = """
INSERT INTO workspace_files (id, workspace_id, path, content, updated_at)
SELECT gen_random_uuid(), given.workspace_id, given.path, given.content, now()
FROM unnest(%s::uuid[], %s::text[], %s::bytea[]) AS given(workspace_id, path, content)
ON CONFLICT (workspace_id, path) DO UPDATE SET content = EXCLUDED.content, updated_at = now()
"""


def template_id(name: str) -> str:
    """The folder of a template called `name`."""
    plain = re.sub(r"[ -]", "-", name)
    plain = re.sub(r"[^a-z0-9_-]", "", re.sub(r"[A-Z]", lambda found: found[0].lower(), plain))
    return plain[:_ID_CHARS] or "unnamed"


def checked_files(files: Mapping[str, str], *, most: int = MAX_FILES) -> dict[str, bytes]:
    """Content by plain path. Raises BadRequest or TooLarge, before anything is written."""
    if len(files) > most:
        raise BadRequest(f"too many files ({len(files)}), max {most}")
    checked: dict[str, bytes] = {}
    for path, text in files.items():
        plain = plain_or_refused(path)
        if plain in checked:
            raise BadRequest("invalid request body")
        checked[plain] = text.encode()
        if len(checked[plain]) > TEXT_BYTES:
            raise TooLarge("file too large")
    folders = {parent for path in checked for parent in _parents(path)}
    if folders & set(checked):
        raise BadRequest("invalid request body")  # a file cannot also be a folder
    return checked


class InvalidPath(BadRequest):
    def __init__(self) -> None:
        super().__init__("invalid path")


def plain_or_refused(path: str) -> str:
    """Raises InvalidPath for a path that is none."""
    try:
        return plain_path(path)
    except UnsafePath:
        raise InvalidPath from None


def import_template(*, name: str, files: Mapping[str, bytes], actor: str) -> str:
    """Add a template to the catalogue, whole or not at all; returns its id.

    Raises Conflict when it is there already, Internal when the folder cannot be written.
    """
    new_id, root = template_id(name), configs_root()
    if os.path.lexists(root / new_id):
        raise _exists(new_id)
    wanted = dict(files)
    if CONFIG_FILE not in wanted:
        config = imported_config(name=name, files=wanted, tier=default_tier())
        wanted[CONFIG_FILE] = config.encode()
    beside = root / f".import-{uuid4().hex}"
    try:
        _write_all(beside, wanted)
        os.rename(beside, root / new_id)  # fails on a folder that holds something: of two imports one wins
    except OSError as error:
        if (root / new_id).is_dir():
            raise _exists(new_id) from None
        log.exception("template.not_imported", id=new_id)
        raise Internal("failed to import template") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    log.info("template.imported", id=new_id, actor=actor, files=len(wanted))
    return new_id


def _exists(new_id: str) -> Conflict:
    return Conflict("template already exists", id=new_id)


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(mode=0o755, parents=True)
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stored:
            stored.write(content)


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


# --- Stored config files
# ---------------------------------------------------------------------------------------------------


def store_files(files: Mapping[tuple[UUID, str], bytes | None]) -> None:
    """Keep config files by (workspace, path) in one statement; None: deleted, and to stay so."""
    if not files:
        return
    owners, paths = [one for one, _ in files], [path for _, path in files]
    with connection.cursor() as cursor:
        cursor.execute(_STORE, [owners, paths, list(files.values())])


def stored_files(workspace_id: UUID) -> dict[str, bytes | None]:
    """What `store_files` kept of one workspace, by path."""
    rows = WorkspaceFile.objects.filter(workspace_id=workspace_id).order_by("path")
    return {
        path: None if content is None else bytes(content)
        for path, content in rows.values_list("path", "content")
    }


@transaction.atomic
def forget_files(workspace_id: UUID, paths: Iterable[str]) -> None:
    """What replaces them comes from a template again."""
    WorkspaceFile.objects.filter(workspace_id=workspace_id, path__in=list(paths)).delete()
