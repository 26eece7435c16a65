"""Writes a planned tree level by level: one transaction and a fixed number of statements for each.

A level is there as a whole or not at all: a process that dies leaves a tree that the next import completes.
Source: docs/reference/orgimport.md, The walk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, transaction

from access.services import store_secrets_of
from activity.events import EventType, record_all
from config.errors import DomainError
from config.evt import evt
from memory.services.seeds import plant
from orgimport.files import Contents
from orgimport.layout import Point
from orgimport.planner import Place
from orgimport.services.channels import Kept, store_channels
from orgimport.services.places import first_places
from orgimport.template import Node, OrgTemplate
from provisioning import dispatch
from provisioning.models import IMPORT
from schedules.services import Planted, plant_schedules
from templates.services import store_files
from workspaces.cache import remember_url
from workspaces.models import CanvasLayout, Status, Workspace
from workspaces.selectors import position
from workspaces.services import (
    NewWorkspace,
    get_or_create_workspaces,
    model_secrets,
    new_row,
    remember_config,
    share_live_parents,
)
from workspaces.services.moves import NOTHING, count_moves

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Stored:
    """What stands in the place of a node; `at` is absolute."""

    place: Place
    row: Workspace
    is_new: bool
    at: Point


class Stopped(Exception):
    """The walk has ended early; `path` is the node it ended at."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"import stopped at {path}: {reason}")


@dataclass
class Walk:
    """One import's way through its levels; `stored` holds what has committed, by index, `schedules` what
    became of those of created workspaces.
    """

    template: OrgTemplate
    contents: Mapping[str, Contents]
    anchor: UUID | None
    actor: str
    stored: dict[int, Stored] = field(default_factory=dict)
    channels: dict[UUID, Kept] = field(default_factory=dict)  # by workspace, also of a level that failed
    schedules: dict[UUID, Planted] = field(default_factory=dict)
    on_progress: Callable[[int], None] = field(default=lambda reached: None)
    _anchor_at: Point = (0.0, 0.0)

    def run(self, levels: Sequence[Sequence[Place]]) -> None:
        """Raises Stopped: no later level was tried, nothing of the failed one is there."""
        for level in levels:
            try:
                with transaction.atomic(durable=True):
                    found = self._level(level)
            except Stopped:
                raise
            except DomainError as error:
                raise Stopped(level[0].node.path, error.text) from error
            except (DatabaseError, InterfaceError) as error:
                log.exception("import.level_failed", template=self.template.key, path=level[0].node.path)
                raise Stopped(level[0].node.path, "the database refused it or cannot be asked") from error
            except Exception as error:
                log.exception("import.level_failed", template=self.template.key, path=level[0].node.path)
                raise Stopped(level[0].node.path, "internal error") from error
            self.stored.update({one.place.index: one for one in found})
            self._log_skipped(found)
            self.on_progress(len(self.stored))

    def _level(self, level: Sequence[Place]) -> list[Stored]:
        self._hold_parents(level)
        pairs = get_or_create_workspaces([self._row(place) for place in level])
        found = self._placed(level, pairs)
        new = [one for one in found if one.is_new]
        if new:
            self._furnish(new)
        return found

    def _hold_parents(self, level: Sequence[Place]) -> None:
        parents = {place.index: parent for place in level if (parent := self._parent(place))}
        live = share_live_parents(set(parents.values()))
        for place in level:
            if place.index in parents and parents[place.index] not in live:
                raise Stopped(place.node.path, "its parent workspace was removed meanwhile")

    def _parent(self, place: Place) -> UUID | None:
        return self.anchor if place.parent is None else self.stored[place.parent].row.pk

    def _row(self, place: Place) -> Workspace:
        node = place.node
        row = new_row(
            NewWorkspace(
                name=node.name,
                runtime=node.runtime,
                role=node.role,
                template=node.template,
                tier=node.tier,
                url=node.url,
                workspace_dir=node.workspace_dir,
                workspace_access=node.workspace_access,
                parent_id=self._parent(place),
                max_concurrent_tasks=node.max_concurrent_tasks,
            )
        )
        row.import_template, row.import_key = self.template.key, node.path
        return row

    def _placed(self, level: Sequence[Place], pairs: Sequence[tuple[Workspace, bool]]) -> list[Stored]:
        """Each node with where it stands: found ones where the user has put them, new ones in their slot."""
        old = [row.pk for row, is_new in pairs if not is_new]
        kept = {one.pk: (one.x, one.y) for one in CanvasLayout.objects.filter(pk__in=old)} if old else {}
        new = [place for place, (_, is_new) in zip(level, pairs, strict=True) if is_new]
        if new and new[0].parent is None:
            ids = {row.pk for row, is_new in pairs if is_new}
            self._anchor_at = position(self.anchor) if self.anchor else (0.0, 0.0)
            at = first_places(new, ids, self.anchor, self._anchor_at)
        else:
            at = {place.index: self._below_parent(place) for place in new}
        return [
            Stored(place, row, is_new, at[place.index] if is_new else kept.get(row.pk, (0.0, 0.0)))
            for place, (row, is_new) in zip(level, pairs, strict=True)
        ]

    def _below_parent(self, place: Place) -> Point:
        assert place.parent is not None
        assert place.slot is not None
        above = self.stored[place.parent].at
        return above[0] + place.slot[0], above[1] + place.slot[1]

    def _furnish(self, new: Sequence[Stored]) -> None:
        """Everything a created workspace has beside its row, and what is told of it."""
        CanvasLayout.objects.bulk_create(
            [CanvasLayout(workspace_id=one.row.pk, x=one.at[0], y=one.at[1]) for one in new]
        )
        store_secrets_of({one.row.pk: _secrets(one.place.node) for one in new})
        files = {
            (one.row.pk, path): content
            for one in new
            for path, content in self.contents[one.place.node.path].files.items()
        }
        store_files(files)
        self.channels |= store_channels((one.row.pk, one.place.node) for one in new)
        for status, number in Counter(one.row.status for one in new).items():
            count_moves([NOTHING] * number, status, "import")
        plant((one.row, self._memories(one)) for one in new)
        self.schedules |= plant_schedules({one.row.pk: one.place.node.schedules.declared for one in new})
        record_all([event for one in new for event in self._events(one)])
        for one in new:
            transaction.on_commit(lambda one=one: self._begin(one), robust=True)  # type: ignore[misc]

    def _memories(self, one: Stored) -> list[Mapping[str, Any]]:
        """A node's own; what the org shall know besides, with each root of the tree."""
        shared = self.template.global_memories if one.row.parent_id is None else ()
        return [*one.place.node.memories, *({**memory, "scope": "GLOBAL"} for memory in shared)]

    def _events(self, one: Stored) -> list[tuple[EventType, UUID, dict[str, Any]]]:
        row = one.row
        payload: dict[str, Any] = {"name": row.name, "tier": row.tier, "runtime": row.runtime}
        x, y = one.at
        if row.parent_id:
            payload["parent_id"] = str(row.parent_id)
            x, y = one.place.slot or (x - self._anchor_at[0], y - self._anchor_at[1])
        events = [(EventType.WORKSPACE_PROVISIONING, row.pk, {**payload, "x": x, "y": y})]
        if row.status == Status.ONLINE:
            events.append((EventType.WORKSPACE_ONLINE, row.pk, {"name": row.name, "external": True}))
        elif row.status == Status.AWAITING_AGENT:
            events.append((EventType.WORKSPACE_AWAITING_AGENT, row.pk, {"name": row.name, "external": True}))
        return events

    def _begin(self, one: Stored) -> None:
        """What follows the commit. The sweep over starts without a run finds one that is lost here."""
        row = one.row
        if row.is_managed:
            if not dispatch.provision_async(row, trigger=IMPORT, requested_by=self.actor):
                remember_config(row)
        elif row.url:
            remember_url(row.pk, row.url)

    def _log_skipped(self, found: Sequence[Stored]) -> None:
        for one in found:
            if not one.is_new:
                row = one.row
                fields = {
                    "name": row.name,
                    "existing_id": str(row.pk),
                    "parent_id": str(row.parent_id or ""),
                    "tier": row.tier,
                }
                evt("provision.skip_existing", fields)


def _secrets(node: Node) -> dict[str, str]:
    return {**node.env, **model_secrets(node.model)}
