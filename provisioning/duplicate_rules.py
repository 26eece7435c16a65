"""Which workspaces are copies nobody needs: pure rules over what was read once.

Source: docs/reference/provisioning.md, Repair of leaks.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from workspaces.models import ALIVE, EXTERNAL, Status

FRESH = timedelta(minutes=5)
_COPY_NUMBER = re.compile(r"(?: \(\d+\))+$")
_LONG_AGO = datetime.min


class Verdict(StrEnum):
    KEEP = "keep"
    REMOVE = "remove"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Row:
    """A living workspace, as far as grouping needs it."""

    id: UUID
    parent_id: UUID | None
    name: str
    status: str
    tier: int
    runtime: str
    created_at: datetime
    last_heartbeat_at: datetime | None
    active_tasks: int
    generation: int


@dataclass(frozen=True)
class Facts:
    """What is asked only of candidates. `holds` names what would be lost with the workspace."""

    last_activity_at: datetime | None = None
    activity_24h: int = 0
    holds: frozenset[str] = frozenset()
    compute_ids: tuple[str, ...] = ()
    compute_state: str = ""
    vcpus: float = 0.0


@dataclass(frozen=True)
class Options:
    """`stale_days`: also lone workspaces without a sign of life for so long."""

    stale_days: int | None = None
    include_live: bool = False
    allow_data_loss: bool = False


@dataclass(frozen=True)
class Member:
    row: Row
    facts: Facts
    children: int
    verdict: Verdict
    reason: str
    keeper_id: UUID | None = None


@dataclass(frozen=True)
class Group:
    """Copies of one workspace under one parent, the kept one first."""

    parent_id: UUID | None
    name: str
    members: Sequence[Member]


@dataclass(frozen=True)
class CleanupPlan:
    """`stale` are lone idle workspaces. `fingerprint` changes with any member, status or verdict."""

    groups: Sequence[Group]
    stale: Sequence[Member]
    depths: Mapping[UUID, int] = field(repr=False, default_factory=dict)

    @property
    def members(self) -> list[Member]:
        return [member for group in self.groups for member in group.members] + list(self.stale)

    @property
    def removable(self) -> list[Member]:
        """Leaves first, so that no removal takes more than itself."""
        wanted = [member for member in self.members if member.verdict == Verdict.REMOVE]
        return sorted(wanted, key=lambda one: (-self.depths[one.row.id], one.row.created_at, one.row.id))

    @property
    def fingerprint(self) -> str:
        facts = sorted(f"{one.row.id} {one.row.status} {one.verdict}" for one in self.members)
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def plain_name(name: str) -> str:
    """What copies have in common: no ` (2)` at the end, no case, single blanks."""
    return _COPY_NUMBER.sub("", " ".join(name.split())).casefold()


def candidates(rows: Sequence[Row], options: Options, now: datetime) -> set[UUID]:
    """The rows of which more must be known: members of groups, and those that may be stale."""
    grouped = {row.id for group in _groups(rows) for row in group}
    return grouped | {row.id for row in rows if _may_be_stale(row, options, now)}


def make_plan(
    rows: Sequence[Row], facts: Mapping[UUID, Facts], options: Options, now: datetime
) -> CleanupPlan:
    """Judge every candidate. Blocked is who works, lives, is a root or external, or holds what its keeper
    lacks; never removed is who has a child that stays.
    """
    children = defaultdict(list)
    for row in rows:
        children[row.parent_id].append(row.id)
    judge = _Judge(facts, children, options, now)
    groups = [judge.group(members) for members in _groups(rows)]
    in_groups = {member.row.id for group in groups for member in group.members}
    stale = [
        judge.member(row, None, "no sign of life")
        for row in rows
        if row.id not in in_groups and judge.is_stale(row)
    ]
    return _without_parents_of_others(CleanupPlan(groups, stale, _depths(rows)), children)


class _Judge:
    def __init__(
        self,
        facts: Mapping[UUID, Facts],
        children: Mapping[UUID | None, Sequence[UUID]],
        options: Options,
        now: datetime,
    ) -> None:
        self._facts, self._children, self._options, self._now = facts, children, options, now

    def group(self, rows: Sequence[Row]) -> Group:
        kept = min(rows, key=self._rank)
        copies = sorted((row for row in rows if row is not kept), key=lambda row: (row.created_at, row.id))
        keeper = Member(kept, self._of(kept), len(self._children.get(kept.id, ())), Verdict.KEEP, "kept")
        members = [keeper, *(self.member(row, keeper, f"copy of {kept.id}") for row in copies)]
        return Group(kept.parent_id, kept.name, members)

    def member(self, row: Row, keeper: Member | None, reason: str) -> Member:
        blocks = self._blocks(row, keeper)
        verdict = Verdict.BLOCKED if blocks else Verdict.REMOVE
        number = len(self._children.get(row.id, ()))
        keeper_id = keeper.row.id if keeper else None
        return Member(row, self._of(row), number, verdict, "; ".join(blocks) or reason, keeper_id)

    def is_stale(self, row: Row) -> bool:
        if not _may_be_stale(row, self._options, self._now) or self._children.get(row.id):
            return False
        last = self._of(row).last_activity_at
        return last is None or last < _stale_before(self._options, self._now)

    def _blocks(self, row: Row, keeper: Member | None) -> list[str]:
        found = []
        if row.parent_id is None:
            found.append("is a root")
        if row.runtime == EXTERNAL:
            found.append("is external")
        if row.active_tasks > 0:
            found.append(f"has {row.active_tasks} active task(s)")
        if not self._options.include_live and (sign := self._sign_of_life(row)):
            found.append(sign)
        lost = self._of(row).holds - (keeper.facts.holds if keeper else frozenset())
        if lost and not self._options.allow_data_loss:
            found.append(f"holds what would be lost: {', '.join(sorted(lost))}")
        return found

    def _sign_of_life(self, row: Row) -> str:
        if row.last_heartbeat_at and self._now - row.last_heartbeat_at < FRESH:
            return "called in the last 5 minutes"
        if row.status == Status.PROVISIONING or self._now - row.created_at < FRESH:
            return "is new or starting"
        return ""

    def _rank(self, row: Row) -> tuple[int, bool, float, datetime, UUID]:
        """The smallest is kept: most children, then alive, then active last, then oldest."""
        last = self._of(row).last_activity_at
        active = -last.timestamp() if last else 0.0
        return -len(self._children.get(row.id, ())), row.status not in ALIVE, active, row.created_at, row.id

    def _of(self, row: Row) -> Facts:
        return self._facts.get(row.id, Facts())


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    found: dict[tuple[UUID | None, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row.parent_id, plain_name(row.name)].append(row)
    groups = [members for members in found.values() if len(members) > 1]
    return sorted(groups, key=lambda members: (plain_name(members[0].name), str(members[0].parent_id)))


def _may_be_stale(row: Row, options: Options, now: datetime) -> bool:
    if options.stale_days is None:
        return False
    before = _stale_before(options, now)
    return row.created_at < before and (row.last_heartbeat_at is None or row.last_heartbeat_at < before)


def _stale_before(options: Options, now: datetime) -> datetime:
    return now - timedelta(days=options.stale_days or 0)


def _without_parents_of_others(
    plan: CleanupPlan, children: Mapping[UUID | None, Sequence[UUID]]
) -> CleanupPlan:
    """Block whoever has a child that stays; a blocked child blocks its parent, so until none is left."""
    while True:
        removed = {member.row.id for member in plan.removable}
        parents = {one for one in removed if not removed.issuperset(children.get(one, ()))}
        if not parents:
            return plan
        groups = [replace(group, members=_blocked(group.members, parents)) for group in plan.groups]
        plan = replace(plan, groups=groups, stale=_blocked(plan.stale, parents))


def _blocked(members: Sequence[Member], parents: Set[UUID]) -> list[Member]:
    return [_staying(member) if member.row.id in parents else member for member in members]


def _staying(member: Member) -> Member:
    return replace(member, verdict=Verdict.BLOCKED, reason="has children that stay")


def _depths(rows: Sequence[Row]) -> dict[UUID, int]:
    """Levels below the root of each row's tree; a broken chain counts as a root."""
    parents = {row.id: row.parent_id for row in rows}
    depths: dict[UUID, int] = {}
    for row in rows:
        chain, one = [], row.id
        while one not in depths and one in parents and one not in chain:
            chain.append(one)
            one = parents[one]  # type: ignore[assignment]
        base = depths.get(one, -1)
        for distance, member in enumerate(reversed(chain), start=1):
            depths[member] = base + distance
    return depths


def verdicts(plan: CleanupPlan) -> Counter[str]:
    """How many of each."""
    return Counter(str(member.verdict) for member in plan.members)
