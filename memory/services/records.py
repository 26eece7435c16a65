"""Verbs over namespaces and records: who may, what is stored, and what the org is told of it.

The tree is asked anew by every verb. Source: docs/reference/memory.md, Records.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import structlog
from django.conf import settings
from django.db import transaction

from config.errors import Forbidden, NotFound
from memory.backends import backend
from memory.config import is_in_process
from memory.content import prepared, shown_by_namespace
from memory.models import OutboxEntry
from memory.namespaces import Reach, reach_of
from memory.services import audit
from memory.services.counting import count_search, count_write
from memory_store.contract import Code, Memory, Search, StoreError, Write, kind_of, sha256
from workspaces.models import Workspace

log = structlog.get_logger(__name__)

ENSURED_S = 600.0
NOT_HERE = frozenset({Code.NOT_FOUND, Code.FORBIDDEN, Code.BAD_REQUEST})  # a store with ids of another kind


@dataclass(frozen=True)
class NewRecord:
    """What a caller may say of a record; the rest is the server's."""

    content: str
    namespace: str
    kind: str = "fact"
    source: str = "agent"
    expires_at: datetime | None = None
    pin: bool = False
    label: str = ""


def commit(author: Workspace, wanted: NewRecord, *, surface: str, reach: Reach | None = None) -> str:
    """Store a record; its id. Raises Forbidden, BadRequest, StoreError."""
    if not (reach or reach_of(author.pk)).can_write(wanted.namespace):
        count_write(surface, wanted.kind, "refused")
        raise Forbidden(f"workspace {author.pk} cannot write to namespace {wanted.namespace}")
    is_for_org = kind_of(wanted.namespace) == "org"
    content = prepared(wanted.content, is_for_org=is_for_org, workspace_id=author.pk)
    write = Write(
        content=content,
        kind=wanted.kind,
        source=wanted.source,
        # Named here, so that a repeated call stores it once.
        id=same_id(wanted.namespace, wanted.kind, content) if settings.MEMORY_DEDUPE == "exact" else uuid4(),
        expires_at=wanted.expires_at,
        propagation=provenance(author.pk, wanted.label),
        pin=wanted.pin,
    )
    with as_one():
        stored = put(wanted.namespace, write, surface=surface)
        if is_for_org:
            audit.wrote_for_org(author.pk, stored, wanted.namespace, content)
    return stored


def put(namespace: str, write: Write, *, surface: str) -> str:
    """Store a prepared record in a namespace that is there afterwards. Raises StoreError."""
    outcome = "error"
    try:
        _ensure(namespace)
        try:
            stored = backend().commit(namespace, write)
        except StoreError as error:
            if error.code != Code.NOT_FOUND:
                raise
            forget_ensured(namespace)  # deleted behind our back
            _ensure(namespace)
            stored = backend().commit(namespace, write)
        outcome = "ok"
        return stored
    finally:
        count_write(surface, write.kind, outcome)


def search(reader: Workspace, wanted: Search, *, surface: str, reach: Reach | None = None) -> list[Memory]:
    """Records of those of the wanted namespaces that the reader may read; all of them when none is named.

    Raises StoreError.
    """
    names = (reach or reach_of(reader.pk)).intersect_readable(wanted.namespaces)
    if not names:
        return []
    outcome = "error"
    try:
        found = backend().search(replace(wanted, namespaces=names))
        outcome = "ok"
    finally:
        count_search(surface, outcome)
    return [one for one in found if one.namespace in names]  # a plugin that does not filter must not leak


def forget(author: Workspace, memory_id: str, namespaces: Iterable[str] | None = None) -> str:
    """Delete a record from the first namespace the author may write that has it, or from one of those
    named; the namespace.

    Raises NotFound, whatever the reason; StoreError.
    """
    writable = reach_of(author.pk).writable
    for name in writable if namespaces is None else [one for one in namespaces if one in writable]:
        with as_one():
            try:
                backend().forget(memory_id, name)
            except StoreError as error:
                if error.code not in NOT_HERE:
                    raise
                continue
            if kind_of(name) == "org":
                audit.deleted_for_org(author.pk, memory_id, name)
        return name
    raise NotFound("memory not found")


def as_one() -> AbstractContextManager[Any]:
    """A record and its line in the feed together, where both are in this database."""
    return transaction.atomic() if is_in_process() else nullcontext()


def every(namespace: str) -> Iterator[Memory]:
    """All live records of a namespace, page by page, from a store that lists them. Raises StoreError."""
    cursor: str | None = None
    while True:
        page = backend().list_records(namespace, cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def shown(one: Memory) -> str:
    """As agents read it: what is for the whole org says where it is from."""
    return (
        shown_by_namespace(one.content, one.id, one.namespace)
        if kind_of(one.namespace) == "org"
        else one.content
    )


def provenance(author_id: UUID, label: str = "") -> dict[str, Any]:
    return {"source_workspace_id": str(author_id), **({"tag": label} if label else {})}


def author_of(one: Memory) -> str:
    """The workspace that wrote it; empty when it cannot be told."""
    told = (one.propagation or {}).get("source_workspace_id")
    if isinstance(told, str):
        return told
    return one.namespace.partition(":")[2] if kind_of(one.namespace) == "workspace" else ""


def same_id(namespace: str, kind: str, content: str) -> UUID:
    """One id for one text in one place: whoever stores it again stores nothing new."""
    return uuid5(NAMESPACE_URL, f"{namespace} {kind} {sha256(content)}")


def forget_ensured(*names: str) -> None:
    """These namespaces may be gone; all, when none is named."""
    with _lock:
        for name in names or list(_ensured):
            _ensured.pop(name, None)


def _ensure(namespace: str) -> None:
    if _ensured.get(namespace, 0.0) > time.monotonic():
        return
    backend().put_namespace(namespace)
    OutboxEntry.objects.filter(op=OutboxEntry.Op.DELETE_NAMESPACE, namespace=namespace).delete()
    with _lock:
        if len(_ensured) > 10_000:
            _ensured.clear()
        _ensured[namespace] = time.monotonic() + ENSURED_S


def names_of(reach: Reach, scopes: Sequence[str]) -> list[str]:
    """The namespaces in which memories of these scopes live."""
    kinds = {"LOCAL": "workspace", "TEAM": "team", "GLOBAL": "org"}
    return [name for scope in scopes for name in reach.of_kind(kinds[scope])]


_ensured: dict[str, float] = {}
_lock = threading.Lock()
