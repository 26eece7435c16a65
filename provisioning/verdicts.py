"""What each piece of compute is, by what the rows say. Judged without a database: every case is a test.

Source: docs/reference/provisioning.md, Compute without a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from provisioning.backends.base import Compute, ComputeState
from workspaces.models import ALIVE, PARKED, Status

OLD_ENOUGH = timedelta(minutes=10)  # younger compute may belong to a start in flight
REFUSED_ABOVE, REFUSED_SHARE = 5, 0.2


class Verdict(StrEnum):
    OK = "ok"
    ORPHAN = "orphan"
    DUPLICATE = "duplicate"
    PARKED_RUNNING = "parked_running"
    MISSING = "missing"


@dataclass(frozen=True)
class Standing:
    """A workspace as its row has it. `started` is the highest generation whose compute was ever started:
    a newer run that was declined or failed does not condemn what still serves.
    """

    workspace_id: UUID
    name: str
    status: str
    runtime: str
    generation: int
    is_managed: bool
    is_owed: bool  # its teardown is queued, and cares for the compute
    started: int | None = None
    instance_id: str | None = None  # the machine that the row points to


@dataclass(frozen=True)
class Finding:
    workspace_id: UUID
    compute: Compute | None
    standing: Standing | None
    verdict: Verdict

    @property
    def is_doomed(self) -> bool:
        """Whether a sweep would stop it."""
        is_owed = self.standing is not None and self.standing.is_owed
        return self.verdict in {Verdict.ORPHAN, Verdict.DUPLICATE} and not is_owed


def judged(computes: Iterable[Compute], standings: Mapping[UUID, Standing], now: datetime) -> list[Finding]:
    """Every piece of compute, then the managed rows that say they run and have none."""
    computes = list(computes)
    second = _second_ones(computes, standings)
    findings = [
        Finding(one.workspace_id, one, known, _verdict(one, known, now, is_second=one.compute_id in second))
        for one in computes
        for known in [standings.get(one.workspace_id)]
    ]
    present = {one.workspace_id for one in findings if one.compute and is_live(one.compute)}
    missing = [
        Finding(one.workspace_id, None, one, Verdict.MISSING)
        for one in standings.values()
        if one.is_managed and one.status in ALIVE and one.workspace_id not in present
    ]
    return findings + missing


def _second_ones(computes: Iterable[Compute], standings: Mapping[UUID, Standing]) -> set[str]:
    """Ids of live compute beyond the one of its generation that stays.

    That is the row's machine, else the oldest: a repeated start adopts the same one.
    """

    def rank(one: Compute) -> tuple[bool, bool, str, str]:
        known = standings.get(one.workspace_id)
        is_the_rows = known is not None and known.instance_id == one.compute_id
        return not is_the_rows, one.started_at is None, str(one.started_at), one.compute_id

    seen: set[tuple[UUID, int]] = set()
    second = set()
    for one in sorted(filter(is_live, computes), key=rank):
        key = (one.workspace_id, one.generation)
        if key in seen:
            second.add(one.compute_id)
        seen.add(key)
    return second


def _verdict(compute: Compute, known: Standing | None, now: datetime, *, is_second: bool) -> Verdict:
    is_old = is_older(compute.started_at, now)
    if known is None:
        return Verdict.ORPHAN if is_old else Verdict.OK
    if not known.is_managed:
        return Verdict.OK  # somebody else's, whatever runs there
    if known.status == Status.REMOVED:
        return Verdict.ORPHAN
    if is_second or (known.started is not None and compute.generation < known.started):
        return Verdict.DUPLICATE if is_old else Verdict.OK
    if known.status in PARKED and is_live(compute):
        return Verdict.PARKED_RUNNING
    return Verdict.OK


def is_live(compute: Compute) -> bool:
    return compute.state != ComputeState.NOT_RUNNING


def is_older(began: datetime | None, now: datetime) -> bool:
    """Of an unknown age nothing is known: it is not old."""
    return began is not None and began < now - OLD_ENOUGH


def is_refused(doomed: int, total: int) -> bool:
    """Whether so much would go at once that the rows are to be doubted: a wrong or restored database must
    not wipe a fleet.
    """
    return doomed > max(REFUSED_ABOVE, REFUSED_SHARE * total)


def duplicates(computes: Iterable[Compute]) -> dict[str, int]:
    """Live compute beyond the first, by workspace; only of those that have more than one."""
    live = Counter(str(one.workspace_id) for one in computes if is_live(one))
    return {workspace_id: number - 1 for workspace_id, number in sorted(live.items()) if number > 1}
