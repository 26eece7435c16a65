"""Every scoped memory out of the deployment, and back into it.

Source: docs/reference/memory.md, Backup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from activity.redaction import redacted
from config.errors import DomainError
from config.http import rfc3339
from config.locks import hold_lock
from memory import config
from memory.backends import backend
from memory.content import prepared
from memory.models import Scope
from memory.namespaces import reach_of
from memory.services import records, scoped
from memory.services.memories import scope_of
from memory_store.contract import SEARCH_MOST, Memory, Search, StoreError, Write, kind_of, uuid_or_none
from workspaces.models import Workspace

REASONS = 100
SURFACE = "backup"


@dataclass
class Export:
    """`truncated` names the namespaces of which a store without lists gave only the first page."""

    entries: Iterator[dict[str, Any]]
    truncated: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What became of the entries of an import; `details` names the first reasons."""

    total: int
    imported: int = 0
    skipped: int = 0
    errors: int = 0
    details: list[dict[str, Any]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("imported", "skipped", "errors", "total")}
        return {**counts, **({"details": self.details} if self.details else {})}

    def left(self, index: int, reason: str, *, is_error: bool) -> None:
        self.errors += is_error
        self.skipped += not is_error
        if len(self.details) < REASONS:
            self.details.append({"index": index, "reason": reason})


class _Skip(Exception):
    """Why an entry is not imported, without being wrong."""


class _Wrong(Exception):
    """What is wrong with an entry."""


def export() -> Export:
    """Everything, oldest first, redacted once more, as it is stored. Raises StoreError."""
    if not config.is_primary():
        return Export(_rows())
    found, truncated = _all_records()
    names = dict(Workspace.objects.values_list("pk", "name"))
    ordered = sorted(found.values(), key=lambda one: (one.created_at, one.id))
    return Export((_record_entry(one, names) for one in ordered), truncated)


def import_memories(entries: Sequence[Any]) -> Outcome:
    """Each entry by itself. Raises StoreError when the store fails: the rest can be imported again."""
    with hold_lock("memories: import"):  # one after the other: each looks, then stores
        return _imported(entries)


def _imported(entries: Sequence[Any]) -> Outcome:
    outcome = Outcome(len(entries))
    for index, entry in enumerate(entries):
        try:
            _import_one(entry)
        except _Skip as reason:
            outcome.left(index, str(reason), is_error=False)
        except _Wrong as reason:
            outcome.left(index, str(reason), is_error=True)
        except DomainError as error:
            outcome.left(index, error.text, is_error=True)
        else:
            outcome.imported += 1
    return outcome


def _rows() -> Iterator[dict[str, Any]]:
    for page in scoped.pages():
        for row in page:
            yield _entry(str(row.pk), row.content, row.scope, row.namespace, row.created_at, row.workspace)


def _entry(
    memory_id: str, content: str, scope: str, namespace: str, created_at: datetime, owner: Workspace
) -> dict[str, Any]:
    return {
        "id": memory_id,
        "content": redacted(content)[0],
        "scope": scope,
        "namespace": namespace,
        "created_at": rfc3339(created_at),
        "workspace_name": owner.name,
        "workspace_id": str(owner.pk),
    }


def _all_records() -> tuple[dict[str, Memory], list[str]]:
    """By id: a namespace may be walked more than once."""
    found: dict[str, Memory] = {}
    truncated: list[str] = []
    if "list" in backend().capabilities():
        for name in _listed_names():
            found |= {one.id: one for one in records.every(name)}
        return found, truncated
    for name in _known_names():
        page_of = backend().search(Search([name], limit=SEARCH_MOST))
        found |= {one.id: one for one in page_of if one.namespace == name}
        if len(page_of) >= SEARCH_MOST:
            truncated.append(name)
    return found, truncated


def _listed_names() -> Iterator[str]:
    for prefix in ("workspace:", "team:", "org:"):
        cursor: str | None = None
        while True:
            page = backend().list_namespaces(prefix, cursor)
            yield from (one.name for one in page.items)
            cursor = page.next_cursor
            if cursor is None:
                break


def _known_names() -> Iterator[str]:
    rows = list(Workspace.objects.values_list("pk", "parent_id"))
    leads = {parent for _, parent in rows if parent}
    for pk, parent in rows:
        yield f"workspace:{pk}"
        if parent is None or pk in leads:
            yield f"team:{pk}"
        if parent is None:
            yield f"org:{pk}"


def _record_entry(one: Memory, names: dict[UUID, str]) -> dict[str, Any]:
    owner = one.namespace.partition(":")[2]
    owner_id = uuid_or_none(owner)
    return {
        "id": one.id,
        "content": redacted(one.content)[0],
        "scope": scope_of(one.namespace),
        "namespace": one.namespace,
        "created_at": rfc3339(one.created_at),
        "workspace_name": names.get(owner_id, "") if owner_id else "",
        "workspace_id": owner,
    }


def _import_one(entry: Any) -> None:
    if not isinstance(entry, dict):
        raise _Wrong("is no object")
    scope = str(entry.get("scope") or "").strip().upper()
    if scope not in Scope.values:
        raise _Wrong("scope must be LOCAL, TEAM, or GLOBAL")
    text = entry.get("content")
    if not isinstance(text, str):
        raise _Wrong("content is required")
    created_at = _moment(entry.get("created_at"))
    owner = _owner(entry)
    content = prepared(text, is_for_org=scope == Scope.GLOBAL, workspace_id=owner.pk)
    if config.is_primary():
        is_new = _put_record(owner, scope, content, entry, created_at)
    else:
        label = _label(entry.get("namespace"))
        is_new = scoped.commit_once(owner.pk, content, scope, label, created_at=created_at)
    if not is_new:
        raise _Skip("is there already")


def _put_record(
    owner: Workspace, scope: str, content: str, entry: dict[str, Any], created_at: datetime | None
) -> bool:
    """Whether it is new; its id comes from its text, so that a second import finds it."""
    home = _home(owner, scope, entry.get("namespace"))
    wanted = records.same_id(home, "fact", content)
    if any(_is_there(one, home) for one in (str(entry.get("id") or ""), str(wanted)) if one):
        return False
    label = _label(entry.get("namespace"))
    write = Write(
        content=content, id=wanted, propagation=records.provenance(owner.pk, label), created_at=created_at
    )
    records.put(home, write, surface=SURFACE)
    return True


def _is_there(memory_id: str, home: str) -> bool:
    if "get" not in backend().capabilities():
        return False
    try:
        backend().get(memory_id, home)
    except StoreError as error:
        if error.code in records.NOT_HERE:
            return False
        raise
    return True


def _home(owner: Workspace, scope: str, named: Any) -> str:
    """Where it was, if that is the owner's to read; else where its scope belongs."""
    reach = reach_of(owner.pk)
    homes = records.names_of(reach, [scope])
    if not homes:
        raise _Skip("the tree of its workspace has no root")
    return named if isinstance(named, str) and named in homes else homes[0]


def _owner(entry: dict[str, Any]) -> Workspace:
    """By id where the name agrees, else by a name that only one live workspace has."""
    name = entry.get("workspace_name")
    known = uuid_or_none(entry.get("workspace_id"))
    row = Workspace.objects.filter(pk=known).first() if known else None
    if row is not None and name in (None, "", row.name):
        return row
    if not isinstance(name, str) or not name:
        raise _Skip("its workspace does not exist")
    rows = list(Workspace.objects.live().filter(name=name.replace("\x00", ""))[:2])
    if len(rows) != 1:
        raise _Skip("its workspace does not exist" if not rows else "several workspaces have its name")
    return rows[0]


def _label(named: Any) -> str:
    """A namespace of records is no label."""
    if not isinstance(named, str) or not named.strip() or kind_of(named) != "custom":
        return scoped.LABEL
    return named.replace("\x00", "")[:50]


def _moment(given: Any) -> datetime | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except (ValueError, TypeError):
        raise _Wrong("created_at must be RFC 3339") from None
    if moment.tzinfo is None:
        raise _Wrong("created_at must be RFC 3339")
    return moment
