"""What a template once made and declares no more: found by where a row comes from and where it stands.

Never by its bare name, never what people made, and never what has something of theirs below it.
Source: docs/reference/orgimport.md, Reconcile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, transaction

from config.errors import DomainError
from config.locks import lock_in_transaction
from orgimport.template import Node, OrgTemplate, step
from provisioning.services import teardown
from workspaces.models import Workspace
from workspaces.services import remove_workspace
from workspaces.services.crud import TREE_LOCK

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Row:
    """A living workspace. `path`: the key of the node it was made for, its name for one made by hand."""

    id: UUID
    parent_id: UUID | None
    name: str
    template: str | None
    key: str | None

    @property
    def path(self) -> str:
        return self.key or self.name

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "path": self.path}


class Tree:
    """Every living workspace, read once."""

    def __init__(self) -> None:
        rows = Workspace.objects.live().order_by("created_at", "pk")
        facts = rows.values_list("pk", "parent_id", "name", "import_template", "import_key")
        self.at: dict[tuple[UUID | None, str], Row] = {}
        self._children: dict[UUID | None, list[Row]] = {}
        for row in (Row(*fact) for fact in facts):
            self.at[row.parent_id, row.name] = row
            self._children.setdefault(row.parent_id, []).append(row)

    def children(self, parent: UUID | None) -> list[Row]:
        return self._children.get(parent, [])

    def below(self, parent: UUID) -> Iterator[Row]:
        for child in self.children(parent):
            yield child
            yield from self.below(child.id)


@dataclass(frozen=True)
class Branch:
    """A subtree that goes as a whole; its top first."""

    rows: tuple[Row, ...]

    @property
    def top(self) -> Row:
        return self.rows[0]


@dataclass(frozen=True)
class Pruning:
    """What goes, and which rows would go too if nobody else's stood below them: those with a reason."""

    branches: list[Branch] = field(default_factory=list)
    blocked: list[tuple[Row, str]] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [row for branch in self.branches for row in branch.rows]

    @property
    def errors(self) -> list[str]:
        return [f"{row.path}: {reason}" for row, reason in self.blocked]


@dataclass
class Pruned:
    """What a pruning did. `errors` are the rows that stay, and stops that are still owed."""

    removed: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def plan_pruning(template: OrgTemplate, anchor: UUID | None, tree: Tree) -> Pruning:
    """Nothing for a template of which nothing is to be there: more likely a mistake than a wish."""
    if not any(root.is_spawned for root in template.roots):
        return Pruning()
    declared = {row.id for row in _declared(template.roots, anchor, tree)}
    going = {row.id: row for row in _made_by(template, anchor, tree) if row.id not in declared}
    foreign = {row.id: next((one for one in tree.below(row.id) if one.id not in going), None)
               for row in going.values()}  # fmt: skip
    pruning = Pruning()
    for row in going.values():
        if other := foreign[row.id]:
            pruning.blocked.append((row, f"stays: {other.name} below it is not this template's"))
        elif row.parent_id not in going or foreign[row.parent_id]:
            pruning.branches.append(Branch((row, *tree.below(row.id))))
    return pruning


def prune(template: OrgTemplate, anchor: UUID | None) -> Pruned:
    """Remove it, branch by branch: one that fails stops no other. What is stored stays until a purge."""
    pruned = Pruned()
    try:
        pruning = plan_pruning(template, anchor, Tree())
    except (DatabaseError, InterfaceError):
        log.exception("import.not_pruned", template=template.key)
        pruned.errors.append("nothing was removed: the database cannot be asked")
        return pruned
    pruned.errors += pruning.errors
    for branch in pruning.branches:
        _remove(branch, template, pruned)
    if failures := _stopped(pruned.removed):
        pruned.errors.append(f"{failures} stop call(s) failed; they are repeated until they succeed")
    return pruned


def _declared(nodes: Iterable[Node], parent: UUID | None, tree: Tree) -> Iterator[Row]:
    """The rows in the places of all nodes; one that is not to be spawned keeps what is there."""
    for node in nodes:
        if row := tree.at.get((parent, node.name)):
            yield row
            yield from _declared(node.children, row.id, tree)


def _made_by(template: OrgTemplate, anchor: UUID | None, tree: Tree) -> Iterator[Row]:
    """The rows of this template that hang at this anchor: its roots, former ones too, and all below them."""
    wanted = {root.name for root in template.roots}
    tops = [row for row in tree.children(anchor) if row.name in wanted or _is_root(row, template)]
    keys = tuple(f"{key}/" for row in tops for key in (row.key, step(row.name)) if key)
    for top in tops:
        if top.template == template.key:
            yield top
        yield from _of_it(top, template, keys, tree)


def _of_it(parent: Row, template: OrgTemplate, keys: tuple[str, ...], tree: Tree) -> Iterator[Row]:
    for row in tree.children(parent.id):
        if row.template == template.key:
            if not row.path.startswith(keys):
                continue  # the top of a second import of it, with an anchor of its own
            yield row
        yield from _of_it(row, template, keys, tree)


def _is_root(row: Row, template: OrgTemplate) -> bool:
    return row.template == template.key and "/" not in (row.key or "")


def _remove(branch: Branch, template: OrgTemplate, pruned: Pruned) -> None:
    """If it still is as it was planned."""
    top = branch.top
    try:
        with transaction.atomic():
            lock_in_transaction(TREE_LOCK)  # before the row, as every change of the tree takes them
            unchanged = Workspace.objects.live().filter(
                pk=top.id, parent_id=top.parent_id, import_template=template.key
            )
            if not unchanged.exists():
                return  # somebody else has removed or moved it
            gone = remove_workspace(
                workspace_id=top.id,
                confirmed=True,
                keeps_storage=True,
                only={row.id for row in branch.rows},
            )
    except DomainError as error:
        pruned.errors.append(f"{top.path}: {error.text}")
    except (DatabaseError, InterfaceError):
        log.exception("import.branch_not_removed", template=template.key, workspace_id=str(top.id))
        pruned.errors.append(f"{top.path}: the database refused it or cannot be asked")
    else:
        removed = set(gone.ids)
        pruned.removed += [row for row in branch.rows if row.id in removed]
        log.info("import.removed", template=template.key, workspace_id=str(top.id), count=len(removed))


def _stopped(removed: Iterable[Row]) -> int:
    """How many stops were refused. What cannot be tried now is owed, and found by its sweep."""
    ids = [row.id for row in removed]
    try:
        return teardown(ids) if ids else 0
    except Exception:
        log.exception("import.teardown_failed")
        return 0
