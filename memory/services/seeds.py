"""Memories that workspaces are born with. Source: docs/reference/memory.md, Seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, transaction

from memory import config
from memory.content import prepared_seed
from memory.models import AgentMemory, OutboxEntry, Scope
from memory.services import audit, records
from memory.services.outbox import commit_later, ring
from memory_store.contract import Write, sha256
from workspaces.models import Workspace

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Seed:
    """A prepared text for one workspace that has just been inserted."""

    row: Workspace
    content: str
    scope: str


def plant(wanted: Iterable[tuple[Workspace, Sequence[Mapping[str, Any]]]]) -> None:
    """Give each new workspace its memories, `{"content","scope"}`, inside the transaction that creates it.

    A fixed number of statements, besides the lines for GLOBAL ones. What cannot be understood is skipped and
    logged; what the database refuses costs the memories, never the workspaces.
    """
    seeds = list(dict.fromkeys(seed for row, given in wanted for seed in _read(row, given)))
    if not seeds:
        return
    try:
        with transaction.atomic():
            if config.is_primary():
                OutboxEntry.objects.bulk_create([_entry(seed) for seed in seeds])
                ring()
            else:
                _store(seeds)
    except (OperationalError, InterfaceError):
        raise
    except DatabaseError:
        log.exception("memory.seeds_lost", workspace_ids=sorted({str(seed.row.pk) for seed in seeds}))


def _store(seeds: Sequence[Seed]) -> None:
    rows = [
        AgentMemory(
            workspace=seed.row,
            content=seed.content,
            scope=seed.scope,
            namespace=f"workspace:{seed.row.pk}",
            content_sha256=sha256(seed.content),
        )
        for seed in seeds
    ]
    AgentMemory.objects.bulk_create(rows)
    for row in rows:
        if row.scope == Scope.GLOBAL:
            audit.wrote_for_org(row.workspace_id, str(row.pk), row.namespace, row.content)


def _entry(seed: Seed) -> OutboxEntry:
    """Its id comes from what it says and where: delivered twice it is stored once."""
    row = seed.row
    homes = {
        Scope.LOCAL: f"workspace:{row.pk}",
        Scope.TEAM: f"team:{row.parent_id or row.pk}",
        Scope.GLOBAL: f"org:{row.pk}",
    }
    home = homes[Scope(seed.scope)]
    write = Write(
        content=seed.content,
        source="runtime",
        id=records.same_id(home, "fact", seed.content),
        propagation=records.provenance(row.pk, f"workspace:{row.pk}"),
    )
    return commit_later(home, write)


def _read(row: Workspace, given: Sequence[Mapping[str, Any]]) -> Iterator[Seed]:
    for number, one in enumerate(given):
        named = one.get("scope") if isinstance(one, Mapping) else None
        scope = str(named or Scope.LOCAL).strip().upper()
        text = one.get("content") if isinstance(one, Mapping) else None
        reason = _refusal(row, text, scope)
        if reason:
            log.warning("memory.seed_skipped", workspace_id=str(row.pk), number=number, reason=reason)
            continue
        content = prepared_seed(str(text), is_for_org=scope == Scope.GLOBAL, workspace_id=row.pk)
        if content:
            yield Seed(row, content, scope)


def _refusal(row: Workspace, text: Any, scope: str) -> str:
    if not isinstance(text, str) or not text.strip():
        return "no content"
    if scope not in Scope.values:
        return "unknown scope"
    if scope == Scope.GLOBAL and row.parent_id is not None:
        return "only a root writes for the org"
    return ""
