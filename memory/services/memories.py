"""Scoped memories for every surface that speaks of LOCAL, TEAM and GLOBAL: the one switch between the stores.

In primary mode they are records, and `agent_memories` stands still. Source: docs/reference/memory.md, Scopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import structlog

from config.errors import BadRequest, Forbidden, NotFound, NotImplementedHere
from memory import config
from memory.backends import backend
from memory.content import prepared, without_wrapper
from memory.models import Scope
from memory.namespaces import reach_of
from memory.services import audit, records, scoped
from memory.services.counting import count_search, count_write
from memory.services.scoped import LABEL, Question, Recalled
from memory_store.contract import SEARCH_MOST, Memory, Search, StoreError, kind_of, uuid_or_none
from workspaces.models import Status, Workspace

log = structlog.get_logger(__name__)

_SCOPES = {"workspace": Scope.LOCAL, "team": Scope.TEAM, "org": Scope.GLOBAL}
NOT_OWN = "memory not found or not owned by this workspace"


@dataclass(frozen=True)
class Stored:
    """`namespace`: of the record; in the first store the label."""

    id: str
    namespace: str


@dataclass(frozen=True)
class Edited:
    id: str
    scope: str
    label: str
    has_changed: bool


def commit(
    author: Workspace, content: str, scope: str, *, label: str = LABEL, source: str = "agent", surface: str
) -> Stored:
    """Raises BadRequest, Forbidden, StoreError."""
    if scope == Scope.GLOBAL and author.parent_id is not None:
        raise Forbidden("only root workspaces can write GLOBAL memories")
    if not config.is_primary():
        stored = prepared(content, is_for_org=scope == Scope.GLOBAL, workspace_id=author.pk)
        memory_id = scoped.commit(author.pk, stored, scope, label)
        count_write(surface, "fact", "ok")
        return Stored(memory_id, label)
    reach = reach_of(author.pk)
    home = next((name for name in records.names_of(reach, [scope]) if reach.can_write(name)), None)
    if home is None:
        raise Forbidden("this workspace cannot write memories of that scope")
    wanted = records.NewRecord(content, home, source=source, label=label)
    return Stored(records.commit(author, wanted, surface=surface, reach=reach), home)


def search(reader: Workspace, question: Question, *, surface: str) -> list[Recalled]:
    """What the reader may see, as it is stored. Raises StoreError."""
    if not config.is_primary():
        found = scoped.search(reader, question)
        count_search(surface, "ok")
        return found
    reach = reach_of(reader.pk)
    names = records.names_of(reach, question.scopes)
    if not names:
        return []
    wanted = Search(names, query=question.text, limit=SEARCH_MOST)
    recalled = _recalled(records.search(reader, wanted, surface=surface, reach=reach))
    if question.label:
        recalled = [one for one in recalled if one.label == question.label]
    if question.is_oldest_first and not question.text:
        recalled.sort(key=lambda one: (one.created_at, one.id))
    elif not question.text:
        recalled.sort(key=lambda one: one.created_at, reverse=True)
    return recalled[: question.limit]


def edit(author: Workspace, memory_id: str, content: str | None, label: str | None) -> Edited:
    """Change what is given of a memory of the author's own. Raises NotFound, BadRequest, StoreError."""
    if config.is_primary():
        return _edited_record(author, memory_id, content, label)
    row = scoped.own(author, _uuid(memory_id))
    stored = content and _changed_text(author, content, row.scope == Scope.GLOBAL, str(row.pk))
    row, has_changed = scoped.edit(author, row.pk, stored, label)
    return Edited(str(row.pk), row.scope, row.namespace, has_changed)


def forget(author: Workspace, memory_id: str) -> None:
    """Raises NotFound, StoreError."""
    if not config.is_primary():
        return scoped.forget(author, _uuid(memory_id))
    try:
        records.forget(author, memory_id)
    except NotFound:
        raise NotFound(NOT_OWN) from None


def found_in_session(workspace_id: UUID, text: str, limit: int) -> list[dict[str, Any]]:
    """The workspace's own memories as items of the session search, newest first; none while their store is
    away: what the feed has is shown all the same.
    """
    try:
        found = _own_memories(workspace_id, text, limit)
    except StoreError as error:
        log.warning("memory.backend_failed", answered="nothing", code=str(error.code), reason=error.message)
        return []
    return [
        {
            "kind": "memory",
            "id": one.id,
            "workspace_id": one.workspace_id,
            "label": one.scope,
            "content": one.content,
            "method": "",
            "status": "",
            "created_at": one.created_at,
        }
        for one in found
    ]


def _own_memories(workspace_id: UUID, text: str, limit: int) -> list[Recalled]:
    if not config.is_primary():
        return scoped.remembered(workspace_id, text, limit)
    wanted = Search([f"workspace:{workspace_id}"], query=text, limit=min(limit, SEARCH_MOST))
    return _recalled(backend().search(wanted))


def scope_of(namespace: str) -> str:
    return _SCOPES.get(kind_of(namespace), "")


def _edited_record(author: Workspace, memory_id: str, content: str | None, label: str | None) -> Edited:
    if not {"get", "update"} <= backend().capabilities():
        raise NotImplementedHere("memory edit is not supported by the configured memory plugin")
    one = _own_record(author, memory_id)
    scope, old_label = scope_of(one.namespace), _label(one)
    changed = one
    if content is not None:
        text = _changed_text(author, content, scope == Scope.GLOBAL, one.id)
        changed = replace(changed, content=text)
    if label is not None and label != old_label:
        changed = replace(changed, propagation={**(one.propagation or {}), "tag": label})
    if changed == one:
        return Edited(one.id, scope, old_label, False)
    changes = {"content": changed.content, "propagation": changed.propagation}
    with records.as_one():
        backend().update(one.id, one.namespace, changes)
        if scope == Scope.GLOBAL and changed.content != one.content:
            audit.edited_for_org(author.pk, one.id, one.namespace, changed.content)
    return Edited(one.id, scope, _label(changed), True)


def _own_record(author: Workspace, memory_id: str) -> Memory:
    for name in reach_of(author.pk).writable:
        try:
            one = backend().get(memory_id, name)
        except StoreError as error:
            if error.code not in records.NOT_HERE:
                raise
            continue
        if records.author_of(one) == str(author.pk):
            return one
    raise NotFound(NOT_OWN)


def _changed_text(author: Workspace, content: str, is_for_org: bool, memory_id: str) -> str:
    own = without_wrapper(content, memory_id, str(author.pk)) if is_for_org else content
    if not own.strip():
        raise BadRequest("content cannot be empty")
    return prepared(own, is_for_org=is_for_org, workspace_id=author.pk)


def _recalled(found: Sequence[Memory]) -> list[Recalled]:
    """What a removed workspace told its team is not shown any more."""
    authors = {records.author_of(one) for one in found if kind_of(one.namespace) == "team"}
    gone = _removed(authors)
    return [
        Recalled(
            id=one.id,
            workspace_id=records.author_of(one),
            content=one.content,
            scope=scope_of(one.namespace),
            label=_label(one),
            created_at=one.created_at,
            namespace=one.namespace,
        )
        for one in found
        if kind_of(one.namespace) != "team" or records.author_of(one) not in gone
    ]


def _removed(authors: set[str]) -> set[str]:
    known = [author for one in authors if (author := uuid_or_none(one))]
    if not known:
        return set()
    rows = Workspace.objects.filter(pk__in=known, status=Status.REMOVED)
    return {str(one) for one in rows.values_list("pk", flat=True)}


def _label(one: Memory) -> str:
    tag = (one.propagation or {}).get("tag")
    return tag if isinstance(tag, str) and tag else LABEL


def _uuid(memory_id: str) -> UUID:
    found = uuid_or_none(memory_id)
    if found is None:
        raise NotFound(NOT_OWN)
    return found
