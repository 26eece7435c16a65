"""What happened to a workspace, from every room, in one stream.

Summaries and previews only: no bodies, no bytes, no secrets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from operator import attrgetter
from uuid import UUID

from django.db.models import Q

from activity.models import ActivityLog, StructureEvent
from console.models import OperatorAction
from delegations.models import Delegation
from provisioning.models import ProvisionRun

EACH, SHOWN = 25, 60
CHARS = 160


@dataclass(frozen=True)
class Entry:
    at: datetime
    kind: str
    what: str
    detail: str = ""


def timeline(workspace_id: UUID) -> list[Entry]:
    """The newest entries, newest first; one short indexed query per kind."""
    streams = (
        _events(workspace_id),
        _runs(workspace_id),
        _activity(workspace_id),
        _delegations(workspace_id),
        _operators(workspace_id),
    )
    ordered = [sorted(one, key=attrgetter("at"), reverse=True) for one in streams]
    return list(islice(merge(*ordered, key=attrgetter("at"), reverse=True), SHOWN))


def _events(workspace_id: UUID) -> Iterator[Entry]:
    rows = StructureEvent.objects.filter(workspace_id=workspace_id).order_by("-created_at", "-seq")
    for at, name in rows.values_list("created_at", "event_type")[:EACH]:
        yield Entry(at, "event", name)


def _runs(workspace_id: UUID) -> Iterator[Entry]:
    rows = ProvisionRun.objects.filter(workspace_id=workspace_id).order_by("-generation", "-queued_at")
    for run in rows.only("queued_at", "kind", "generation", "state", "error_safe")[:EACH]:
        yield Entry(run.queued_at, "run", f"{run.kind} g{run.generation}: {run.state}", _cut(run.error_safe))


def _activity(workspace_id: UUID) -> Iterator[Entry]:
    rows = ActivityLog.objects.filter(workspace_id=workspace_id).newest_first()
    for at, kind, method, summary in rows.values_list("created_at", "activity_type", "method", "summary")[
        :EACH
    ]:
        yield Entry(at, "activity", f"{kind} {method or ''}".strip(), _cut(summary))


def _delegations(workspace_id: UUID) -> Iterator[Entry]:
    for concerned, word in ((Q(caller_id=workspace_id), "sent"), (Q(callee_id=workspace_id), "received")):
        rows = Delegation.objects.filter(concerned).order_by("-created_at")
        for row in rows.only("created_at", "status", "delivery", "task_preview")[:EACH]:
            yield Entry(row.created_at, "delegation", f"{word}: {row.shown}", _cut(row.task_preview))


def _operators(workspace_id: UUID) -> Iterator[Entry]:
    rows = OperatorAction.objects.filter(object_id=str(workspace_id)).order_by("-started_at")
    for row in rows[:EACH]:
        yield Entry(row.started_at, "operator", f"{row.actor}: {row.verb}, {row.outcome}", _cut(row.reason))


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= CHARS else f"{text[: CHARS - 1]}…"
