"""The store: verbs over PostgreSQL, each one transaction. Source: docs/reference/memory-plugin.md.

All raise StoreError for what is refused; errors of the database pass through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import orjson
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from memory_store import fusion, text_search, vectors
from memory_store.contract import (
    KEPT,
    SEARCH_LIMIT,
    Code,
    KeptOr,
    Memory,
    Namespace,
    Page,
    Search,
    StoreError,
    Write,
    bad,
    checked_kind,
    checked_name,
    checked_search,
    checked_write,
    read_uuid,
    sha256,
)
from memory_store.models import MemoryNamespace, MemoryRecord

_CAPABILITIES = ("fts", "ttl", "pin", "propagation", "list", "get", "update")
PAGE = 200
_EXPIRY_GRACE = "interval '1 day'"  # an expired record is invisible at once and gone a day later
SWEEP_BATCH = 1000

_COLUMNS = "m.id, m.namespace, m.content, m.kind, m.source, m.created_at, m.expires_at, m.propagation, m.pin"
_HOME = """
JOIN memory_namespaces n ON n.name = m.namespace
WHERE (m.expires_at IS NULL OR m.expires_at > now()) AND (n.expires_at IS NULL OR n.expires_at > now())
"""
_LIVE = f"FROM memory_records m {_HOME}"
_PUT_NAMESPACE = """
INSERT INTO memory_namespaces AS n (name, kind, expires_at, metadata, created_at)
VALUES (%(name)s, %(kind)s, %(expires_at)s, %(metadata)s::jsonb, now())
ON CONFLICT (name) DO UPDATE SET kind = EXCLUDED.kind,
    expires_at = CASE WHEN %(keeps_expiry)s THEN n.expires_at ELSE EXCLUDED.expires_at END,
    metadata = CASE WHEN %(keeps_metadata)s THEN n.metadata ELSE EXCLUDED.metadata END
RETURNING name, kind, created_at, expires_at, metadata
"""
# The namespace is locked, so that a delete of it waits or wins whole.
_COMMIT = """
WITH home AS (SELECT name FROM memory_namespaces WHERE name = %(namespace)s FOR KEY SHARE)
INSERT INTO memory_records AS m
    (id, namespace, content, kind, source, expires_at, propagation, pin, content_sha256,
     created_at, updated_at)
SELECT %(id)s, name, %(content)s, %(kind)s, %(source)s, %(expires_at)s, %(propagation)s::jsonb, %(pin)s,
    %(sha256)s, coalesce(%(created_at)s, now()), now() FROM home
ON CONFLICT (id) DO UPDATE SET content = EXCLUDED.content, kind = EXCLUDED.kind, source = EXCLUDED.source,
    expires_at = EXCLUDED.expires_at, propagation = EXCLUDED.propagation, pin = EXCLUDED.pin,
    content_sha256 = EXCLUDED.content_sha256, updated_at = now()
WHERE m.namespace = EXCLUDED.namespace
RETURNING id
"""


def capabilities() -> tuple[str, ...]:
    """What the store can do now: meaning only while there are vectors."""
    return (*_CAPABILITIES, "embedding") if vectors.is_active(vectors.RECORDS) else _CAPABILITIES


def ping() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def put_namespace(
    name: str,
    kind: str,
    *,
    expires_at: Any = KEPT,
    metadata: dict[str, Any] | KeptOr | None = KEPT,
) -> Namespace:
    """Create it, or change what is given; what is omitted stays."""
    values = {
        "name": checked_name(name),
        "kind": checked_kind(name, kind),
        "expires_at": None if expires_at is KEPT else expires_at,
        "metadata": None if metadata is KEPT else _json(metadata),
        "keeps_expiry": expires_at is KEPT,
        "keeps_metadata": metadata is KEPT,
    }
    with connection.cursor() as cursor:
        cursor.execute(_PUT_NAMESPACE, values)
        (row,) = cursor.fetchall()
    return Namespace(row[0], row[1], row[2], row[3], _parsed(row[4]))


def patch_namespace(name: str, *, expires_at: Any = KEPT, metadata: Any = KEPT) -> Namespace:
    if expires_at is KEPT and metadata is KEPT:
        raise bad("nothing to change")
    with transaction.atomic():
        row = MemoryNamespace.objects.select_for_update().filter(pk=checked_name(name)).first()
        if row is None:
            raise _no_namespace()
        return put_namespace(name, row.kind, expires_at=expires_at, metadata=metadata)


def delete_namespace(name: str) -> None:
    """Its records go with it."""
    rows = MemoryNamespace.objects.filter(pk=checked_name(name))
    if not rows._raw_delete(rows.db):
        raise _no_namespace()


def commit(namespace: str, write: Write) -> UUID:
    """Store one record and return its id; the id of a record that exists in another namespace is refused."""
    checked_write(write)
    if write.embedding is not None and vectors.is_active(vectors.RECORDS):
        _check_length(write.embedding)
    values: dict[str, Any] = {
        "id": write.id or uuid4(),
        "namespace": checked_name(namespace),
        "content": write.content,
        "kind": write.kind,
        "source": write.source,
        "expires_at": write.expires_at,
        "propagation": _json(write.propagation),
        "pin": write.pin,
        "sha256": sha256(write.content),
        "created_at": write.created_at,
    }
    with connection.cursor() as cursor:
        cursor.execute(_COMMIT, values)
        stored = cursor.fetchone()
    if stored is not None:
        if write.embedding is not None and vectors.is_active(vectors.RECORDS):
            vectors.keep(vectors.RECORDS, values["id"], values["sha256"], list(write.embedding))
        return UUID(str(stored[0]))
    if not MemoryNamespace.objects.filter(pk=namespace).exists():
        raise _no_namespace()
    raise StoreError(Code.FORBIDDEN, "the id belongs to another namespace")


def search(wanted: Search) -> list[Memory]:
    """The best first, by words and, where there are vectors, by meaning; without a question the pinned and
    the newest first.
    """
    checked_search(wanted)
    vector = _vector(wanted)
    return _by_words(wanted) if vector is None else _by_both(wanted, vector)


def _by_words(wanted: Search) -> list[Memory]:
    for match in text_search.attempts(wanted.query):
        found = _matching(wanted, match)
        if found:
            return found
    return []


def _by_both(wanted: Search, vector: list[float]) -> list[Memory]:
    limit = wanted.limit or SEARCH_LIMIT
    most = fusion.pool(limit)
    words = {one.id: one for one in _by_words(replace(wanted, limit=most))} if wanted.query.strip() else {}
    near = vectors.nearest(vectors.RECORDS, f"{_HOME} {_conditions(wanted)}", _values(wanted), vector, most)
    others = [one for one in near if one not in words]
    found = words | {
        one.id: one
        for one in _read(f"SELECT {_COLUMNS}, NULL {_LIVE} AND m.id = ANY(%(ids)s)", {"ids": others})
    }
    now = timezone.now()
    scores = fusion.fused(*(order for order in (list(words), list(near)) if order))
    ranked = [
        replace(
            one,
            score=fusion.boosted(scores[one.id], is_pinned=one.pin, created_at=one.created_at, now=now),
        )
        for one in found.values()
    ]
    return sorted(ranked, key=lambda one: (-(one.score or 0), one.id))[:limit]


def _vector(wanted: Search) -> list[float] | None:
    """What to be near to; None where there are no vectors, or nothing to ask."""
    if not vectors.is_active(vectors.RECORDS):
        return None
    if wanted.embedding is not None:
        _check_length(wanted.embedding)
    elif len(wanted.query.strip()) < 2:
        return None
    return vectors.vector_of_question(wanted.query, wanted.embedding)


def _check_length(vector: Sequence[float]) -> None:
    if not vectors.is_fitting(vector):
        raise bad(f"embedding must be {vectors.chosen().dim} finite numbers")


def forget(memory_id: str, namespace: str) -> None:
    """Delete a record; one of another namespace does not exist."""
    if not _in_namespace(memory_id, namespace).delete()[0]:
        raise _no_memory()


def get(memory_id: str, namespace: str) -> Memory:
    record = read_uuid(memory_id)
    values = {"id": record, "namespace": checked_name(namespace)}
    found = _read(
        f"SELECT {_COLUMNS}, NULL {_LIVE} AND m.id = %(id)s AND m.namespace = %(namespace)s", values
    )
    if not found:
        raise _no_memory()
    return found[0]


def update(memory_id: str, namespace: str, changes: Mapping[str, Any]) -> Memory:
    """Change some of content, kind, expires_at, propagation and pin of a record; returns it."""
    allowed = {"content", "kind", "expires_at", "propagation", "pin"}
    if not changes or not set(changes) <= allowed:
        raise bad("nothing to change")
    with transaction.atomic():
        _in_namespace(memory_id, namespace).select_for_update().first()
        changed = replace(get(memory_id, namespace), **changes)
        now = {name: getattr(changed, name) for name in allowed}
        commit(namespace, Write(source=changed.source, id=UUID(changed.id), **now))
    return changed


def list_namespaces(prefix: str = "", cursor: str | None = None) -> Page:
    """Names in order, PAGE at a time."""
    rows = MemoryNamespace.objects.filter(name__startswith=prefix, name__gt=cursor or "").order_by("name")
    found = [
        Namespace(row.name, row.kind, row.created_at, row.expires_at, row.metadata)
        for row in rows[: PAGE + 1]
    ]
    return Page(found[:PAGE], found[PAGE - 1].name if len(found) > PAGE else None)


def list_records(namespace: str, cursor: str | None = None, limit: int = PAGE) -> Page:
    """The live records of a namespace by id, at most PAGE at a time."""
    limit = min(max(limit, 1), PAGE)
    values = {
        "namespace": checked_name(namespace),
        "after": read_uuid(cursor) if cursor else UUID(int=0),
        "limit": limit + 1,
    }
    statement = f"SELECT {_COLUMNS}, NULL {_LIVE} AND m.namespace = %(namespace)s AND m.id > %(after)s"
    found = _read(f"{statement} ORDER BY m.id LIMIT %(limit)s", values)
    return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)


def forget_expired() -> int:
    """One batch of records and namespaces that expired more than a day ago; returns how many went."""
    gone = 0
    with connection.cursor() as cursor:
        for table, key in (("memory_records", "id"), ("memory_namespaces", "name")):
            cursor.execute(
                f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table}"
                f" WHERE expires_at < now() - {_EXPIRY_GRACE}"
                " ORDER BY expires_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED)",
                {"batch": SWEEP_BATCH},
            )
            gone += cursor.rowcount
    return gone


def _matching(wanted: Search, match: text_search.Match) -> list[Memory]:
    order = "score DESC, " if match.score else ""
    return _read(
        f"SELECT {_COLUMNS}, {match.score or 'NULL'} AS score {_LIVE} {_conditions(wanted)}"
        f" AND {match.where} ORDER BY {order}m.pin DESC, m.created_at DESC, m.id LIMIT %(limit)s",
        {**_values(wanted), **text_search.parameters(wanted.query)},
    )


def _conditions(wanted: Search) -> str:
    kinds = " AND m.kind = ANY(%(kinds)s)" if wanted.kinds else ""
    return f"AND m.namespace = ANY(%(namespaces)s){kinds}"


def _values(wanted: Search) -> dict[str, Any]:
    return {
        "namespaces": list(wanted.namespaces),
        "kinds": list(wanted.kinds),
        "limit": wanted.limit or SEARCH_LIMIT,
    }


def _read(statement: str, values: Mapping[str, Any]) -> list[Memory]:
    with connection.cursor() as cursor:
        cursor.execute(statement, dict(values))
        return [_memory(*row) for row in cursor.fetchall()]


def _memory(memory_id: Any, *rest: Any) -> Memory:
    namespace, content, kind, source, created_at, expires_at, propagation, pin, score = rest
    return Memory(
        id=str(memory_id),
        namespace=namespace,
        content=content,
        kind=kind,
        source=source,
        created_at=created_at,
        expires_at=expires_at,
        propagation=_parsed(propagation),
        pin=pin,
        score=score,
    )


def _in_namespace(memory_id: str, namespace: str) -> QuerySet[MemoryRecord]:
    return MemoryRecord.objects.filter(pk=read_uuid(memory_id), namespace_id=checked_name(namespace))


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _parsed(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value


def _no_namespace() -> StoreError:
    return StoreError(Code.NOT_FOUND, "namespace not found")


def _no_memory() -> StoreError:
    return StoreError(Code.NOT_FOUND, "memory not found")
