"""An org template becomes a tree, once: what is there already is skipped, what is missing is created.

Source: docs/reference/orgimport.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, transaction

from activity.events import EventType, log_event
from activity.tally import tally
from chat_channels.services import reload_manager
from config.errors import DomainError, NotFound, failing_as
from orgimport.files import Contents, contents_of
from orgimport.planner import Place, plan
from orgimport.reading import InvalidTemplate
from orgimport.requirements import check_environment
from orgimport.services.channels import NOTHING, Kept, refresh_channels
from orgimport.services.endings import running
from orgimport.services.pruning import Pruned, Pruning, Tree, plan_pruning, prune
from orgimport.services.walk import Stopped, Stored, Walk
from orgimport.template import Node, OrgTemplate
from provisioning.services.plugins import install_missing
from schedules.services import Planted, refresh_schedules
from templates.allowlists import allowlists
from workspaces.models import Workspace
from workspaces.selectors import chains
from workspaces.services import check_depth_below

log = structlog.get_logger(__name__)

IMPORTS = "molecule_org_import_total"
NODES = "molecule_org_import_nodes_total"
NOT_REFRESHED = "the database refused it or cannot be asked"


class Mode(StrEnum):
    """`merge` adds what is missing and touches nothing else. `reconcile` also gives what exists the plugins
    it lacks and its channels and schedules as declared, and removes what the template made and declares no
    more.
    """

    MERGE = "merge"
    RECONCILE = "reconcile"


@dataclass(frozen=True)
class Import:
    """One request: a template that was read and judged, and where its tree is to hang."""

    template: OrgTemplate
    root: Path | None  # the template's folder
    dir: str
    actor: str
    mode: Mode = Mode.MERGE
    parent_id: UUID | None = None
    id: UUID = field(default_factory=uuid4)


@dataclass
class Outcome:
    """What became of each node that was reached, in pre-order, and why the walk ended early."""

    asked: Import
    entries: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    planned: int = 0
    pruned: Pruned = field(default_factory=Pruned)

    @property
    def created(self) -> int:
        return len(self.entries) - self.skipped

    @property
    def skipped(self) -> int:
        return sum(1 for entry in self.entries if entry.get("skipped"))

    def shown(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "org": self.asked.template.name,
            "count": len(self.entries),
            "workspaces": self.entries,
            **({"error": self.error} if self.error else {}),
            "created": self.created,
            "skipped": self.skipped,
            "mode": self.asked.mode,
            "warnings": [*self.asked.template.warnings, *self._unplaced()],
            **(self._reconciled() if self.asked.mode == Mode.RECONCILE else {}),
        }

    def _unplaced(self) -> list[dict[str, str]]:
        """Below a parent no node is an org's root, and only that writes for the whole org."""
        is_lost = self.asked.parent_id is not None and self.asked.template.global_memories
        return [{"path": "", "key": "global_memories"}] if is_lost else []

    def _reconciled(self) -> dict[str, Any]:
        removed, errors = [row.shown() for row in self.pruned.removed], self.pruned.errors
        return {
            "reconcile_removed_count": len(removed),
            **({"reconcile_removed": removed} if removed else {}),
            **({"reconcile_errors": errors} if errors else {}),
        }


def _quietly(done: int, total: int) -> None:
    """Nobody watches."""


def import_org(asked: Import, *, on_progress: Callable[[int, int], None] = _quietly) -> Outcome:
    """Create what is missing of the tree. Repeating it changes nothing; an interrupted one is completed.
    `on_progress` is told after each level how many nodes have been reached, and of how many.

    Raises InvalidTemplate, PreconditionFailed for missing variables, NotFound for a parent that is gone,
    Conflict for a tree that would be too deep; then nothing was written.
    """
    began = time.monotonic()
    levels = plan(asked.template)
    contents = _readable(asked)
    _check_anchor(asked, len(levels))
    with running(asked.id):
        _audit(EventType.ORG_IMPORT_STARTED, asked)
        try:
            check_environment(asked.template)
            outcome = _walked(asked, levels, contents, on_progress)
        except Exception as error:
            text = error.text if isinstance(error, DomainError) else "internal error"
            _audit(EventType.ORG_IMPORT_FAILED, asked, error=text)
            tally.add(IMPORTS, result="failed")
            raise
        _finish(outcome, time.monotonic() - began)
    return outcome


@dataclass(frozen=True)
class Foreseen:
    """What an import would do: its steps in pre-order, then what goes, and why some of it would stay."""

    plan: list[dict[str, Any]]
    errors: list[str]


def planned(asked: Import) -> Foreseen:
    """What an import would do now; nothing is written. Raises as it would, but for missing variables."""
    levels = plan(asked.template)
    _readable(asked)
    _check_anchor(asked, len(levels))
    tree = Tree()
    steps = list(_foreseen(asked.template.roots, asked.parent_id, tree, parent_is_there=True))
    pruning = Pruning()
    if asked.mode == Mode.RECONCILE:
        pruning = plan_pruning(asked.template, asked.parent_id, tree)
    steps += [{"path": row.path, "action": "remove", "id": row.id} for row in pruning.rows]
    return Foreseen(steps, pruning.errors)


def _foreseen(
    nodes: Iterable[Node], parent: UUID | None, tree: Tree, *, parent_is_there: bool
) -> Iterable[dict[str, Any]]:
    for node in nodes:
        if not node.is_spawned:
            continue
        found = tree.at.get((parent, node.name)) if parent_is_there else None
        if found:
            yield {"path": node.path, "action": "skip", "id": found.id}
        else:
            yield {"path": node.path, "action": "create"}
        below = found.id if found else None
        yield from _foreseen(node.children, below, tree, parent_is_there=found is not None)


def _readable(asked: Import) -> Mapping[str, Contents]:
    """The files of every node. Raises InvalidTemplate for what cannot be copied whole."""
    contents, problems = contents_of(asked.template, asked.root, _allowed(asked))
    if problems:
        raise InvalidTemplate(problems)
    return contents


def _check_anchor(asked: Import, levels: int) -> None:
    if asked.parent_id is None:
        return
    with failing_as("failed to check the parent workspace"):
        if not Workspace.objects.live().filter(pk=asked.parent_id).exists():
            raise NotFound("parent workspace not found")
        check_depth_below(asked.parent_id, levels)


def _allowed(asked: Import) -> dict[str, set[str]]:
    """The plugins that the org of each root allows, by the root's name; absent: all."""
    names = [root.name for root in asked.template.roots]
    with failing_as("failed to check the org's plugin allowlist"):
        if asked.parent_id:
            chain = chains([asked.parent_id]).get(asked.parent_id, [])
            orgs = dict.fromkeys(names, chain[-1].id) if chain else {}
        else:
            roots = Workspace.objects.live().filter(parent=None, name__in=names)
            orgs = dict(roots.values_list("name", "pk"))
        lists = allowlists(orgs.values())
    return {name: lists[org] for name, org in orgs.items() if org in lists}


def _walked(
    asked: Import,
    levels: list[list[Place]],
    contents: Mapping[str, Contents],
    on_progress: Callable[[int, int], None],
) -> Outcome:
    log.info("import.started", template=asked.template.key, slots=settings.MOLECULE_PROVISION_CONCURRENCY)
    total = sum(len(level) for level in levels)
    walk = Walk(asked.template, contents, asked.parent_id, asked.actor)
    walk.on_progress = lambda reached: on_progress(reached, total)
    outcome = Outcome(asked, planned=total)
    try:
        walk.run(levels)
    except Stopped as stopped:
        outcome.error = str(stopped)
    reconciles = asked.mode == Mode.RECONCILE and not outcome.error
    found = [one for _, one in sorted(walk.stored.items()) if not one.is_new] if reconciles else []
    parts = Parts(
        {**walk.channels, **refresh_channels((one.row.pk, one.place.node) for one in found)},
        {**walk.schedules, **_renewed_schedules(found)},
    )
    if any(kept.is_changed for kept in parts.channels.values()):
        reload_manager()
    for _, stored in sorted(walk.stored.items()):
        its = contents[stored.place.node.path]
        entry = _entry(stored, its, parts)
        if reconciles and not stored.is_new:
            entry |= _refreshed(stored, its, parts, asked.actor)
        outcome.entries.append(entry)
    if reconciles and outcome.entries:
        outcome.pruned = prune(asked.template, asked.parent_id)
    return outcome


@dataclass(frozen=True)
class Parts:
    """What became of the channels and schedules of nodes, by workspace."""

    channels: Mapping[UUID, Kept]
    schedules: Mapping[UUID, Planted]


def _entry(stored: Stored, contents: Contents, parts: Parts) -> dict[str, Any]:
    row, node = stored.row, stored.place.node
    entry: dict[str, Any] = {"id": row.pk, "name": row.name, "tier": row.tier}
    if not stored.is_new:
        entry["skipped"] = True
    entry |= {"parent_id": row.parent_id, "path": node.path, "status": row.status}
    if not stored.is_new:
        return entry
    return entry | _lists(stored, parts, plugins=contents.plugins, refused=contents.skipped_plugins)


def _renewed_schedules(found: list[Stored]) -> dict[UUID, Planted]:
    """What became of the schedules of workspaces that existed; a database that refuses stops nothing."""
    declared = {one.row.pk: one.place.node.schedules.declared for one in found}
    if not declared:
        return {}
    try:
        return refresh_schedules(declared)
    except (DatabaseError, InterfaceError):
        log.exception("import.schedules_failed")
        return {
            row: Planted(refused=[(one.name, NOT_REFRESHED) for one in wanted])
            for row, wanted in declared.items()
        }


def _refreshed(stored: Stored, contents: Contents, parts: Parts, actor: str) -> dict[str, Any]:
    added, failed = install_missing(stored.row, contents.plugins, actor=actor)
    return {"refreshed": True} | _lists(
        stored, parts, plugins=added, refused={**contents.skipped_plugins, **failed}
    )


def _lists(
    stored: Stored, parts: Parts, *, plugins: Iterable[str], refused: Mapping[str, str]
) -> dict[str, Any]:
    """What became of the parts of a node; what is empty is left out."""
    node, row = stored.place.node, stored.row
    channels, schedules = parts.channels.get(row.pk, NOTHING), parts.schedules.get(row.pk, Planted())
    lists = {
        "channels": list(channels.types),
        "channels_skipped": [
            {"workspace": node.name, "type": kind, "reason": reason} for kind, reason in channels.skipped
        ],
        "schedules": schedules.names,
        "schedules_skipped": [
            {"workspace": node.name, "name": name, "reason": reason}
            for name, reason in [*node.schedules.refused, *schedules.refused]
        ],
        "plugins": list(plugins),
        "plugins_skipped": [
            {"workspace": node.name, "name": name, "reason": reason} for name, reason in refused.items()
        ],
    }
    return {key: value for key, value in lists.items() if value}


def _finish(outcome: Outcome, seconds: float) -> None:
    _audit(
        EventType.ORG_IMPORT_COMPLETED,
        outcome.asked,
        created_count=outcome.created,
        skipped_count=outcome.skipped,
        reconcile_removed_count=len(outcome.pruned.removed),
        reconcile_errors=outcome.pruned.errors,
        duration_ms=int(seconds * 1000),
        create_error=outcome.error,
    )
    tally.add(IMPORTS, result="partial" if outcome.error else "completed")
    failed = outcome.planned - len(outcome.entries)
    for name, number in [("created", outcome.created), ("skipped", outcome.skipped), ("failed", failed)]:
        if number:
            tally.add(NODES, number, outcome=name)


def _audit(event: EventType, asked: Import, **fields: Any) -> None:
    """What is told of the import itself; a database that does not take it stops nothing."""
    about = {"name": asked.template.name, "dir": asked.dir, "mode": asked.mode, "actor": asked.actor}
    about["import_id"] = str(asked.id)
    try:
        with transaction.atomic():
            log_event(event, {**about, **fields})
    except (DatabaseError, InterfaceError):
        log.exception("import.audit_failed", audit=event)
