"""Vectors beside texts: side tables outside the migrations, so that a database without the extension has
everything else. Source: docs/reference/memory.md, Vectors.

A vector counts only for the model and the text it was made of; rows without one are found by their words.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, connection, transaction

from config.embedding import OFF, REQUIRED, Embedding
from config.locks import hold_lock
from memory_store.providers import NoVector, Vector, is_vector, provider_of

log = structlog.get_logger(__name__)

LOCK = "memory vectors"
LOOK_AGAIN_S = 60.0
FEW = 10_000  # so many rows are compared one by one, which never misses any
MAX_INDEXED_DIM = 2000  # of the index; more are compared one by one


class Unavailable(Exception):
    """Why there are no vectors, in a sentence for an operator."""


@dataclass(frozen=True)
class Texts:
    """A table with `id`, `content`, `content_sha256`, and the side table of its vectors."""

    table: str
    vectors: str


RECORDS: Final = Texts("memory_records", "memory_record_embeddings")


def chosen() -> Embedding:
    found: Embedding = settings.MEMORY_EMBEDDING
    return found


def enable(texts: Texts) -> None:
    """Make the extension, the side table and its index, each once. Raises Unavailable."""
    wanted = chosen()
    try:
        provider_of(wanted)
    except NoVector as reason:
        raise Unavailable(str(reason)) from None
    with hold_lock(LOCK):
        schema = _schema() or _created()
        _make_table(texts, schema, wanted.dim)
    _known.pop(texts, None)


def why_not() -> str:
    """What stands against vectors, before anything is made; empty when nothing does."""
    if not chosen().is_wanted:
        return ""
    try:
        provider_of(chosen())
    except NoVector as reason:
        return str(reason)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
        return "" if cursor.fetchone() else _NO_EXTENSION


def is_active(texts: Texts) -> bool:
    """Vectors are wanted and the side table is there; looked at again after a minute."""
    if not chosen().is_wanted:
        return False
    known, until = _known.get(texts, (False, 0.0))
    if until > time.monotonic():
        return known
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [texts.vectors])
        found = bool((cursor.fetchone() or (False,))[0])
    _known[texts] = (found, time.monotonic() + LOOK_AGAIN_S)
    return found


def vector_of_question(text: str, given: Sequence[float] | None = None) -> Vector | None:
    """Of what is asked, or as it was given; None when it cannot be made: words are searched all the same."""
    if given is not None:
        return list(given)
    try:
        return provider_of(chosen()).embed([text])[0]
    except NoVector as reason:
        log.warning("memory.question_not_embedded", reason=str(reason))
        return None


def is_fitting(given: Sequence[float]) -> bool:
    return is_vector(given, chosen().dim)


def nearest(
    texts: Texts, where: str, values: Mapping[str, Any], vector: Vector, most: int
) -> dict[str, float]:
    """Ids with their likeness (1 is the same), the nearest first, of the rows `m` that `where` leaves: joins
    and a WHERE clause.
    """
    operator = f'OPERATOR("{_schema()}".<=>)'
    typed = f'%(vector)s::"{_schema()}".vector'
    source = (
        f"FROM {texts.table} m JOIN {texts.vectors} e ON e.owner = m.id AND e.model = %(model)s"
        f" AND e.content_sha256 = m.content_sha256 AND e.embedding IS NOT NULL {where}"
    )
    given = {**values, "vector": _literal(vector), "model": chosen().model, "most": most, "few": FEW}
    with transaction.atomic(), connection.cursor() as cursor:
        rows = f"SELECT 1 FROM {texts.table} m {where} LIMIT %(few)s"
        cursor.execute(f"SELECT count(*) FROM ({rows}) AS few", given)
        is_few = (cursor.fetchone() or (0,))[0] < FEW
        if not is_few:  # the index goes on until enough rows have passed the conditions
            cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            # The planner takes a row with its own hash for a rare event, and would read and sort them all.
            cursor.execute("SET LOCAL enable_sort = off")
        order = f"(e.embedding {operator} {typed}){' + 0' if is_few else ''}"
        cursor.execute(
            f"SELECT m.id, 1 - (e.embedding {operator} {typed}) {source} ORDER BY {order} LIMIT %(most)s",
            given,
        )
        return {str(row[0]): float(row[1]) for row in cursor.fetchall()}


def keep(texts: Texts, owner: UUID, sha256: str, vector: Vector | None) -> None:
    """Store the vector of a text, unless the text has changed or gone; None: there is none to be had."""
    typed = f'%(vector)s::"{_schema()}".vector'
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {texts.vectors} (owner, model, dim, content_sha256, embedding)"
            f" SELECT id, %(model)s, %(dim)s, content_sha256, {typed} FROM {texts.table}"
            " WHERE id = %(owner)s AND content_sha256 = %(sha256)s FOR KEY SHARE"
            " ON CONFLICT (owner, model) DO UPDATE SET dim = EXCLUDED.dim,"
            " content_sha256 = EXCLUDED.content_sha256, embedding = EXCLUDED.embedding, created_at = now()",
            {
                "model": chosen().model,
                "dim": chosen().dim,
                "vector": None if vector is None else _literal(vector),
                "owner": owner,
                "sha256": sha256,
            },
        )


def embed_pending(texts: Texts) -> int:
    """One batch of texts without a current vector, the oldest first; how many were done. Raises NoVector."""
    if not is_active(texts):
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT m.id, m.content, m.content_sha256 FROM {texts.table} m WHERE NOT EXISTS ("
            f" SELECT FROM {texts.vectors} e WHERE e.owner = m.id AND e.model = %s"
            " AND e.content_sha256 = m.content_sha256) ORDER BY m.created_at LIMIT %s",
            [chosen().model, chosen().batch],
        )
        found = cursor.fetchall()
    if not found:
        return 0
    for (owner, _, sha256), vector in zip(found, _vectors([row[1] for row in found]), strict=True):
        keep(texts, owner, sha256, vector)
    return len(found)


def backlog(texts: Texts) -> int:
    """How many texts have no current vector."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM {texts.table} m LEFT JOIN {texts.vectors} e"
            " ON e.owner = m.id AND e.model = %s AND e.content_sha256 = m.content_sha256"
            " WHERE e.owner IS NULL",
            [chosen().model],
        )
        return int((cursor.fetchone() or (0,))[0])


def forget_all(texts: Texts) -> None:
    """Every vector of the chosen model, so that all are made anew."""
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {texts.vectors} WHERE model = %s", [chosen().model])


def begin(texts: Texts) -> str:
    """At the start of whoever serves the table: the sentence why there are no vectors, empty when there are
    or nobody wants them. Raises Unavailable where they are required.
    """
    if chosen().mode == OFF or not chosen().is_wanted:
        return ""
    try:
        enable(texts)
    except Unavailable as reason:
        if chosen().mode == REQUIRED:
            raise
        return str(reason)
    return ""


def _vectors(contents: list[str]) -> list[Vector | None]:
    """A text that no provider can take must not hold up the others: it is asked for alone, and let go."""
    provider = provider_of(chosen())
    try:
        return list(provider.embed(contents))
    except NoVector as reason:
        if not reason.is_final:
            raise
    return [_alone(content) for content in contents]


def _alone(content: str) -> Vector | None:
    try:
        return provider_of(chosen()).embed([content])[0]
    except NoVector as reason:
        if not reason.is_final:
            raise
        return None


def _schema() -> str:
    """Where the extension is; empty without it."""
    database = str(connection.settings_dict["NAME"])
    if found := _schemas.get(database):
        return found
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
            " WHERE e.extname = 'vector'"
        )
        row = cursor.fetchone()
    if row is None:
        return ""
    return _schemas.setdefault(database, str(row[0]))


def _created() -> str:
    if reason := why_not():
        raise Unavailable(reason)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    except DatabaseError:
        raise Unavailable(_NOT_ALLOWED) from None
    return "public"


def _make_table(texts: Texts, schema: str, dim: int) -> None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {texts.vectors} ("
                f" owner uuid NOT NULL REFERENCES {texts.table} (id) ON DELETE CASCADE,"
                " model text NOT NULL, dim int NOT NULL, content_sha256 char(64) NOT NULL,"
                f' embedding "{schema}".vector({dim}), created_at timestamptz NOT NULL DEFAULT now(),'
                " PRIMARY KEY (owner, model))"
            )
            if dim <= MAX_INDEXED_DIM:
                cursor.execute(
                    f"CREATE INDEX IF NOT EXISTS {texts.vectors}_nearest ON {texts.vectors}"
                    f' USING hnsw (embedding "{schema}".vector_cosine_ops)'
                )
            cursor.execute(
                "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'embedding'",
                [texts.vectors],
            )
            (kept,) = cursor.fetchone() or (dim,)
    except DatabaseError as error:
        raise Unavailable(f"the tables of vectors cannot be made ({type(error).__name__})") from error
    if kept != dim:
        raise Unavailable(f"{texts.vectors} holds vectors of {kept} numbers, MEMORY_EMBEDDING_DIM is {dim}")


def _literal(vector: Sequence[float]) -> str:
    return "[" + ",".join(f"{one:g}" for one in vector) + "]"


_NO_EXTENSION = "MEMORY_VECTOR is on, but this PostgreSQL does not have the extension `vector` (pgvector)"
_NOT_ALLOWED = "this PostgreSQL role may not create the extension `vector`; have an operator create it once"
_schemas: dict[str, str] = {}
_known: dict[Texts, tuple[bool, float]] = {}
