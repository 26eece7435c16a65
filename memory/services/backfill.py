"""The first store's memories copied into records, and compared. Both may be repeated at any time.

Source: docs/reference/memory.md, Backfill.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from memory.backends import backend
from memory.content import prepared_seed
from memory.models import AgentMemory, Scope
from memory.services import records
from memory.services.scoped import pages
from memory_store.contract import SEARCH_MOST, Code, Search, StoreError, Write
from workspaces.models import Workspace
from workspaces.selectors import chains

log = structlog.get_logger(__name__)

PAUSE_S = 5.0
PATIENCE_S = 600.0  # a store that is away for longer ends the run
Tell = Callable[[str], None]


@dataclass
class Copied:
    scanned: int = 0
    copied: int = 0
    skipped: int = 0
    errors: int = 0
    namespaces: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"Backfill complete: scanned={self.scanned} copied={self.copied} skipped={self.skipped}"
            f" errors={self.errors}"
        )


@dataclass
class Verified:
    workspaces_sampled: int = 0
    matches: int = 0
    mismatches: int = 0
    errors: int = 0

    def __str__(self) -> str:
        return (
            f"Verify complete: workspaces_sampled={self.workspaces_sampled} matches={self.matches}"
            f" mismatches={self.mismatches} errors={self.errors}"
        )


def copy(*, workspace_id: UUID | None, limit: int | None, is_dry: bool, tell: Tell) -> Copied:
    """Every memory, oldest first, under its own id; a dry run only counts where they would go."""
    outcome = Copied()
    for page in pages(workspace_id, limit):
        homes = _homes(page)
        for row in page:
            outcome.scanned += 1
            _copy_one(row, homes.get(row.pk), outcome, is_dry=is_dry, tell=tell)
        tell(f"{outcome.scanned} scanned, {outcome.copied} copied")
    return outcome


def verify(*, workspace_id: UUID | None, sample: int, tell: Tell) -> Verified:
    """Whether every memory of some workspaces is in the store as often as here; more is no mismatch."""
    outcome = Verified()
    rows = Workspace.objects.live()
    chosen = rows.filter(pk=workspace_id) if workspace_id else rows.order_by("?")[:sample]
    for row in chosen:
        outcome.workspaces_sampled += 1
        try:
            missing, matches = _compared(row.pk)
        except StoreError as error:
            outcome.errors += 1
            tell(f"{row.pk}: {error.code}: {error.message}")
            continue
        outcome.matches += matches
        outcome.mismatches += sum(missing.values())
        for name, count in missing.items():
            tell(f"{row.pk}: {count} missing in {name}")
    return outcome


def _copy_one(row: AgentMemory, home: str | None, outcome: Copied, *, is_dry: bool, tell: Tell) -> None:
    content = _stored(row)
    if home is None or not content:
        outcome.skipped += 1
        tell(f"{row.pk}: skipped, {'no content' if home else 'its tree has no root'}")
        return
    outcome.namespaces[home] += 1
    if is_dry:
        outcome.copied += 1
        return
    write = Write(
        content=content,
        source="agent",
        id=row.pk,
        propagation=records.provenance(row.workspace_id, row.namespace),
        created_at=row.created_at,
    )
    try:
        _patiently(lambda: records.put(home, write, surface="backfill"), tell)
    except StoreError as error:
        if error.code == Code.FORBIDDEN:  # copied before its author moved
            outcome.skipped += 1
            tell(f"{row.pk}: skipped, stored in another namespace")
            return
        outcome.errors += 1
        tell(f"{row.pk}: {error.code}: {error.message}")
        return
    outcome.copied += 1


def _patiently(call: Callable[[], object], tell: Tell) -> None:
    """Wait for a store that is away instead of failing row after row. Raises StoreError."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            call()
            return
        except StoreError as error:
            if error.code != Code.UNAVAILABLE or time.monotonic() > until:
                raise
            tell(f"the store is away ({error.message}), trying again in {PAUSE_S:g} s")
            time.sleep(PAUSE_S)


def _compared(workspace_id: UUID) -> tuple[Counter[str], int]:
    """How many memories are missing by namespace, and how many are there."""
    missing: Counter[str] = Counter()
    matches = 0
    wanted: Counter[tuple[str, str]] = Counter()
    for page in pages(workspace_id):
        homes = _homes(page)
        for row in page:
            if (home := homes.get(row.pk)) and (content := _stored(row)):
                wanted[(home, content)] += 1
    found = _found({home for home, _ in wanted}, wanted)
    for (home, content), count in wanted.items():
        there = min(count, found[(home, content)])
        matches += there
        if there < count:
            missing[home] += count - there
    return missing, matches


def _found(names: set[str], wanted: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    if "list" in backend().capabilities():
        return Counter((name, one.content) for name in names for one in records.every(name))
    found: Counter[tuple[str, str]] = Counter()
    for name, content in wanted:
        seen = backend().search(Search([name], query=content[:200], limit=SEARCH_MOST))
        found[(name, content)] = sum(one.content == content for one in seen)
    return found


def _stored(row: AgentMemory) -> str:
    is_for_org = row.scope == Scope.GLOBAL
    return prepared_seed(row.content, is_for_org=is_for_org, workspace_id=row.workspace_id)


def _homes(page: Sequence[AgentMemory]) -> dict[UUID, str]:
    """The namespace each memory belongs to; absent where the tree has no root."""
    lineages = chains({row.workspace_id for row in page})
    homes: dict[UUID, str] = {}
    for row in page:
        chain = lineages[row.workspace_id]
        if row.scope == Scope.LOCAL:
            homes[row.pk] = f"workspace:{row.workspace_id}"
        elif row.scope == Scope.TEAM:
            homes[row.pk] = f"team:{chain[0].parent_id or row.workspace_id}"
        elif chain[-1].parent_id is None:
            homes[row.pk] = f"org:{chain[-1].id}"
    return homes
