"""Every change of a workspace's status passes here: judged by the table of states, written once, counted.

Source: docs/reference/workspaces.md, Status.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from activity.tally import tally
from workspaces.models import STATES, Status, Workspace

TRANSITIONS = "molecule_workspace_transitions_total"
NOTHING = "none"  # where a row that has just been created comes from


@dataclass(frozen=True)
class Moved:
    """A row as the move left it, and the status it came from."""

    row: Workspace
    prior: Status


def move(rows: QuerySet[Workspace], target: Status, *, trigger: str, **changes: Any) -> list[Moved]:
    """Move those of `rows` (the caller's guards) that may become `target`; the others stay as they are.

    The guards are checked again under the rows' locks, so of two callers that want the same one wins. Empty:
    race lost, illegal or gone; announce nothing. `trigger` names the cause in the metrics.
    """
    with transaction.atomic():
        legal = rows.filter(status__in=STATES.sources[target]).order_by("pk").select_for_update(of=("self",))
        prior = {row_id: Status(status) for row_id, status in legal.values_list("pk", "status")}
        if not prior:
            return []
        moved = STATES.move(Workspace.objects.filter(pk__in=list(prior)), target, **changes)
        count_moves(prior.values(), target, trigger)
        return [Moved(row, prior[row.pk]) for row in moved]


def count_moves(sources: Iterable[Status | str], target: Status | str, trigger: str) -> None:
    """Count status changes once they have committed. Not within: a counter's row is shared by everybody, and
    who waits for it while holding workspaces could wait for each other.
    """
    changes = Counter(str(source) for source in sources if source != target)

    def add() -> None:
        for source, number in changes.items():
            tally.add(TRANSITIONS, number, **{"from": source, "to": str(target), "trigger": trigger})

    if changes:
        transaction.on_commit(add, robust=True)
