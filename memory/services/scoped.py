"""Verbs over `agent_memories`, the store that needs nothing switched on.

Source: docs/reference/memory.md, Scopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from config.errors import NotFound
from config.locks import lock_in_transaction
from memory.content import shown_by_namespace, shown_by_scope
from memory.models import AgentMemory, Scope
from memory.services import audit
from memory_store import fusion, text_search, vectors
from memory_store.contract import sha256
from workspaces.models import Workspace
from workspaces.selectors import chains

LABEL = "general"
MOST = 50
PAGE = 500
TEXTS = vectors.Texts("agent_memories", "agent_memory_embeddings")

_COLUMNS = "m.id, m.workspace_id, m.content, m.scope, m.namespace, m.created_at"
_LOCAL = "m.scope = 'LOCAL' AND m.workspace_id = %(me)s"
_TEAM = """m.scope = 'TEAM' AND m.workspace_id IN (
    SELECT id FROM workspaces WHERE status <> 'removed' AND (
        id = %(me)s OR id = %(parent)s OR parent_id = %(me)s OR parent_id = %(parent)s))"""
_EVERYBODY = "m.scope = 'GLOBAL'"
_TREE = """m.scope = 'GLOBAL' AND m.workspace_id IN (
    WITH RECURSIVE tree(id, depth) AS (
        SELECT %(root)s::uuid, 0
        UNION SELECT child.id, tree.depth + 1 FROM workspaces child JOIN tree ON child.parent_id = tree.id
        WHERE tree.depth < 64)
    SELECT id FROM tree)"""


@dataclass(frozen=True)
class Recalled:
    """A memory as a surface shows it, whichever store it came from."""

    id: str
    workspace_id: str
    content: str
    scope: str
    label: str
    created_at: datetime
    namespace: str = ""  # of a record
    likeness: float | None = None  # 0 to 1, when it was found by meaning

    @property
    def shown_to_tool(self) -> str:
        """As the tools of agents show it: what is for the whole org says where it is from."""
        if self.scope != Scope.GLOBAL:
            return self.content
        return shown_by_namespace(self.content, self.id, self.namespace)

    @property
    def shown(self) -> str:
        """As agents read it: what is for the whole org says whose it is."""
        if self.scope != Scope.GLOBAL:
            return self.content
        return shown_by_scope(self.content, self.id, self.workspace_id)


@dataclass(frozen=True)
class Question:
    """What is asked for. `scopes` in any order; `label` narrows to an exact label."""

    scopes: Sequence[str] = tuple(Scope.values)
    text: str = ""
    label: str = ""
    limit: int = MOST
    is_oldest_first: bool = False


@transaction.atomic
def commit(
    author_id: UUID, content: str, scope: str, label: str, *, created_at: datetime | None = None
) -> str:
    """Store a prepared text; its id."""
    row = AgentMemory.objects.create(
        workspace_id=author_id,
        content=content,
        scope=scope,
        namespace=label,
        content_sha256=sha256(content),
        **({"created_at": created_at} if created_at else {}),
    )
    if scope == Scope.GLOBAL:
        audit.wrote_for_org(author_id, str(row.pk), label, content)
    return str(row.pk)


@transaction.atomic
def commit_once(
    author_id: UUID, content: str, scope: str, label: str, *, created_at: datetime | None = None
) -> bool:
    """Store it unless the author has this text in this scope already; whether it was stored."""
    lock_in_transaction(f"memories:{author_id}")
    same = AgentMemory.objects.filter(workspace_id=author_id, scope=scope, content_sha256=sha256(content))
    if same.exists():
        return False
    commit(author_id, content, scope, label, created_at=created_at)
    return True


def search(reader: Workspace, question: Question) -> list[Recalled]:
    """The best first, by words and, where there are vectors, by meaning; without a text the newest; at most
    `limit`.
    """
    values = {**_standpoint(reader), "label": question.label}
    if len(question.text) < 2 or not vectors.is_active(TEXTS):
        return _by_words(question, values)
    vector = vectors.vector_of_question(question.text)
    return _by_words(question, values) if vector is None else _by_both(question, values, vector)


def _by_words(question: Question, standpoint: Mapping[str, Any]) -> list[Recalled]:
    values = {**standpoint, **text_search.parameters(question.text), "limit": question.limit}
    for match in text_search.attempts(question.text):
        found = _read(_statement(question, match), values)
        if found:
            return found
    return []


def _by_both(question: Question, values: Mapping[str, Any], vector: list[float]) -> list[Recalled]:
    most = fusion.pool(question.limit)
    words = {one.id: one for one in _by_words(replace(question, limit=most), values)}
    visible = " OR ".join(f"({_visible(scope)})" for scope in question.scopes)
    where = f"WHERE ({visible}) {_labelled(question)}"
    near = vectors.nearest(TEXTS, where, values, vector, most)
    others = [one for one in near if one not in words]
    rows = f"SELECT {_COLUMNS}, NULL FROM agent_memories m WHERE m.id = ANY(%(ids)s)"
    found = words | {one.id: one for one in _read(rows, {"ids": others})}
    scores = fusion.fused(*(order for order in (list(words), list(near)) if order))
    ranked = sorted(found.values(), key=lambda one: (-scores[one.id], one.id))[: question.limit]
    return [
        replace(one, likeness=min(max(near[one.id], 0.0), 1.0)) if one.id in near else one for one in ranked
    ]


def edit(
    author: Workspace, memory_id: UUID, content: str | None, label: str | None
) -> tuple[AgentMemory, bool]:
    """Change what is given of the author's own memory, `content` prepared; the row, and whether it changed.

    Raises NotFound.
    """
    with transaction.atomic():
        row = own(author, memory_id, is_locked=True)
        changes: dict[str, Any] = {}
        if content is not None and content != row.content:
            changes |= {"content": content, "content_sha256": sha256(content)}
        if label is not None and label != row.namespace:
            changes["namespace"] = label
        if not changes:
            return row, False
        AgentMemory.objects.filter(pk=row.pk).update(**changes, updated_at=Now())
        row.namespace = changes.get("namespace", row.namespace)
        if row.scope == Scope.GLOBAL and "content" in changes:
            audit.edited_for_org(author.pk, str(row.pk), row.namespace, str(content))
        return row, True


def forget(author: Workspace, memory_id: UUID) -> None:
    """Raises NotFound, also for a memory of somebody else."""
    with transaction.atomic():
        row = own(author, memory_id, is_locked=True)
        AgentMemory.objects.filter(pk=row.pk).delete()
        if row.scope == Scope.GLOBAL:
            audit.deleted_for_org(author.pk, str(row.pk), row.namespace)


def own(author: Workspace, memory_id: UUID, *, is_locked: bool = False) -> AgentMemory:
    """Raises NotFound."""
    rows = AgentMemory.objects.select_for_update() if is_locked else AgentMemory.objects.all()
    row = rows.filter(pk=memory_id, workspace_id=author.pk).first()
    if row is None:
        raise NotFound("memory not found or not owned by this workspace")
    return row


def remembered(workspace_id: UUID, text: str, limit: int) -> list[Recalled]:
    """The workspace's own memories of every scope that contain the text, newest first."""
    matches = "m.content ILIKE %(pattern)s" if text else "TRUE"
    values = {"me": workspace_id, "limit": limit, **text_search.parameters(text)}
    statement = (
        f"SELECT {_COLUMNS}, NULL FROM agent_memories m WHERE m.workspace_id = %(me)s AND {matches}"
        " ORDER BY m.created_at DESC, m.id LIMIT %(limit)s"
    )
    return _read(statement, values)


def pages(workspace_id: UUID | None = None, limit: int | None = None) -> Iterator[list[AgentMemory]]:
    """Every memory with its author, or those of one, oldest first and by key: rows that are added or deleted
    meanwhile move nothing.
    """
    rows = AgentMemory.objects.order_by("created_at", "pk").select_related("workspace").defer("content_tsv")
    if workspace_id:
        rows = rows.filter(workspace_id=workspace_id)
    found = list(rows[: PAGE if limit is None else min(PAGE, limit)])
    while found:
        yield found
        limit = None if limit is None else limit - len(found)
        last = found[-1]
        rest = rows.extra(
            where=["(agent_memories.created_at, agent_memories.id) > (%s, %s)"],
            params=[last.created_at, last.pk],
        )
        found = list(rest[: PAGE if limit is None else min(PAGE, limit)])


def _standpoint(reader: Workspace) -> dict[str, Any]:
    chain = chains([reader.pk]).get(reader.pk, [])
    # Without a root (a ring of parents) the org is empty: closed, not open.
    root = chain[-1].id if chain and chain[-1].parent_id is None else None
    return {"me": reader.pk, "parent": reader.parent_id, "root": root}


def _statement(question: Question, match: text_search.Match) -> str:
    """One branch per scope, each with its own index and limit."""
    direction = "ASC" if question.is_oldest_first else "DESC"
    order = f"ORDER BY {'score DESC, ' if match.score else ''}created_at {direction}, id LIMIT %(limit)s"
    branches = [
        f"(SELECT {_COLUMNS}, {match.score or 'NULL::float'} AS score FROM agent_memories m"
        f" WHERE {_visible(scope)} {_labelled(question)} AND {match.where} {order})"
        for scope in question.scopes
    ]
    return f"SELECT * FROM ({' UNION ALL '.join(branches)}) AS found {order}"


def _visible(scope: str) -> str:
    everybody = settings.MEMORY_GLOBAL_VISIBILITY != "tree"
    return {
        Scope.LOCAL: _LOCAL,
        Scope.TEAM: _TEAM,
        Scope.GLOBAL: _EVERYBODY if everybody else _TREE,
    }[Scope(scope)]


def _labelled(question: Question) -> str:
    return "AND m.namespace = %(label)s" if question.label else ""


def _read(statement: str, values: Mapping[str, Any]) -> list[Recalled]:
    with connection.cursor() as cursor:
        cursor.execute(statement, dict(values))
        return [
            Recalled(str(one), str(author), content, scope, label, created_at)
            for one, author, content, scope, label, created_at, _ in cursor.fetchall()
        ]
