"""A live tree becomes a bundle, and a bundle becomes a new tree. Source: docs/reference/bundles.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, transaction

from activity.redaction import redacted
from config.errors import DomainError, Internal, NotFound, Unavailable
from orgimport.bundles import SCHEMA, Bundle
from orgimport.layout import Point, Size, size, slots
from orgimport.services.places import free_place
from provisioning import dispatch
from provisioning.preparation import chosen_model
from provisioning.services.files import config_files
from templates.configs import CONFIG_FILE, PROMPT_FILE, workspace_config
from templates.services import store_files
from templates.writer import dumped
from workspaces.models import Status, Workspace
from workspaces.selectors import subtree
from workspaces.services import NewWorkspace, create_workspace, remember_config

log = structlog.get_logger(__name__)

VERSION = "1.0.0"


# --- Export


def export_bundle(workspace_id: UUID) -> dict[str, Any]:
    """The live subtree without secrets, tokens, memories or history.

    Raises NotFound, and Internal when a part of it cannot be read: it must not vanish.
    """
    rows = {one.pk: one for one in Workspace.objects.live().filter(pk__in=subtree(workspace_id))}
    if workspace_id not in rows:
        raise NotFound("bundle not found")
    try:
        return _exported(rows[workspace_id], sorted(rows.values(), key=lambda one: (one.created_at, one.pk)))
    except (Unavailable, DatabaseError, InterfaceError):
        log.exception("bundle.not_exported", workspace_id=str(workspace_id))
        raise Internal("failed to export bundle") from None


def _exported(row: Workspace, rows: list[Workspace]) -> dict[str, Any]:
    texts = _texts_of(row)
    skills: dict[str, dict[str, str]] = {}
    for path in [one for one in texts if one.startswith("skills/") and one.count("/") > 1]:
        _, skill, rest = path.split("/", 2)
        skills.setdefault(skill, {})[rest] = texts.pop(path)
    return {
        "schema": SCHEMA,
        "id": str(row.pk),
        "name": row.name,
        "description": _plain(row.role or ""),
        "tier": row.tier,
        "model": chosen_model(row.pk),
        "system_prompt": texts.pop(PROMPT_FILE, ""),
        "skills": [_skill(skill, files) for skill, files in sorted(skills.items())],
        "tools": [],
        "prompts": texts,
        "sub_workspaces": [_exported(child, rows) for child in rows if child.parent_id == row.pk],
        "agent_card": _plain(row.agent_card) or None,
        "author": "",
        "version": VERSION,
    }


def _texts_of(row: Workspace) -> dict[str, str]:
    """Every text file that a bundle may bring back, without what looks like a credential.

    One that has no config.yaml gets one that names its runtime: nothing else in a bundle does.
    """
    texts = {CONFIG_FILE: dumped({"name": row.name, "runtime": row.runtime})}
    for path, content in config_files(row).items():
        if _may_hold_secrets(path):
            continue
        try:
            texts[path] = _plain(content.decode())
        except UnicodeDecodeError:
            log.info("bundle.left_out", workspace_id=str(row.pk), path=path)
    return texts


def _may_hold_secrets(path: str) -> bool:
    """`.env` and its kin (`.env.local`, `prod.env`), files and folders."""
    return any(part.endswith(".env") or part.startswith(".env.") for part in path.split("/"))


def _plain(value: Any) -> Any:
    """The same JSON value without what looks like a credential."""
    if isinstance(value, str):
        return redacted(value)[0]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _skill(skill: str, files: Mapping[str, str]) -> dict[str, Any]:
    lines = files.get("SKILL.md", "").splitlines()
    if lines and lines[0].strip() == "---" and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1 :]
    told = next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")
    return {"id": skill, "name": skill, "description": told, "files": dict(files)}


# --- Import


@dataclass
class Imported:
    """What became of one node; `row` is None when it was not created, and `refusal` the status of why."""

    name: str
    row: Workspace | None
    error: str = ""
    children: tuple[Imported, ...] = ()
    refusal: int = Internal.status

    @property
    def is_whole(self) -> bool:
        return self.row is not None and all(child.is_whole for child in self.children)

    def shown(self) -> dict[str, Any]:
        is_up = self.row is not None and self.row.status != Status.FAILED
        status = "provisioning" if is_up else "failed"
        told: dict[str, Any] = {"workspace_id": self.row and self.row.pk, "name": self.name, "status": status}
        if self.error:
            told["error"] = self.error
        return {**told, "children": [child.shown() for child in self.children]} if self.children else told


def import_bundle(bundle: Bundle, *, actor: str) -> Imported:
    """A new tree with new ids; a taken name of its root is varied. Each workspace is there with its files or
    not at all; one that fails takes its descendants with it and nobody else.
    """
    imported = _created(bundle, None, free_place(), {})
    log.info("bundle.imported", actor=actor, name=bundle.name, is_whole=imported.is_whole)
    return imported


def _created(bundle: Bundle, parent: UUID | None, at: Point, sizes: dict[int, Size]) -> Imported:
    try:
        with transaction.atomic():
            row = create_workspace(_wanted(bundle, parent, at)).workspace
            store_files({(row.pk, path): content for path, content in _contents(bundle, row).items()})
            transaction.on_commit(lambda: _begin(row), robust=True)
    except DomainError as error:
        return _failed(bundle, error.text, refusal=error.status)
    except (DatabaseError, InterfaceError):
        log.exception("bundle.node_failed", name=bundle.name)
        return _failed(bundle, "failed to create workspace")
    row.refresh_from_db(fields=["status", "last_sample_error"])
    places = slots([_size(child, sizes) for child in bundle.children])
    children = [
        _created(child, row.pk, (at[0] + x, at[1] + y), sizes)
        for child, (x, y) in zip(bundle.children, places, strict=True)
    ]
    why_not = row.last_sample_error if row.status == Status.FAILED else None
    return Imported(row.name, row, why_not or "", tuple(children))


def _failed(bundle: Bundle, reason: str, *, refusal: int = Internal.status) -> Imported:
    below = tuple(_failed(child, "its parent was not created") for child in bundle.children)
    return Imported(bundle.name, None, reason, below, refusal)


def _wanted(bundle: Bundle, parent: UUID | None, at: Point) -> NewWorkspace:
    return NewWorkspace(
        name=bundle.name,
        runtime=bundle.runtime,
        role=bundle.role,
        tier=bundle.tier,
        model=bundle.model,
        parent_id=parent,
        x=at[0],
        y=at[1],
        source_bundle_id=bundle.id or None,
    )


def _contents(bundle: Bundle, row: Workspace) -> dict[str, bytes]:
    """Its files; a config.yaml that came with it says what the workspace is now."""
    if not row.is_managed:
        return {}
    if bundle.config is None:
        return dict(bundle.files)
    config = workspace_config(
        bundle.config, name=row.name, role=row.role, tier=row.tier, runtime=row.runtime, model=bundle.model
    )
    return {**bundle.files, CONFIG_FILE: dumped(config).encode()}


def _begin(row: Workspace) -> None:
    """The sweep over starts without a run finds one that is lost here."""
    if row.is_managed and not dispatch.provision_async(row):
        remember_config(row)


def _size(bundle: Bundle, sizes: dict[int, Size]) -> Size:
    known = sizes.get(id(bundle))
    if known is None:
        known = sizes[id(bundle)] = size([_size(child, sizes) for child in bundle.children])
    return known
