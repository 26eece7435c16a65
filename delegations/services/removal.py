"""A workspace goes: what it was asked, and what it asked, ends. Source: docs/reference/delegations.md."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q

from config.jobs import Job, enqueue
from delegations.models import Delegation, Status
from delegations.services.transitions import Change, transition

CALLEE_GONE = "target workspace removed"
CALLER_GONE = "caller workspace removed"


def close_with_workspaces(ids: list[UUID]) -> None:
    """Ring for the end of their delegations; the sweeper finds those whose bell is lost."""
    for one in ids:
        enqueue(Job.DELEGATIONS_OF_REMOVED, workspace_id=one)


def close_of_removed(workspace_id: UUID) -> int:
    """Fail what is in flight from or to a removed workspace; the callers that live are told."""
    concerned = Q(caller_id=workspace_id) | Q(callee_id=workspace_id)
    rows = Delegation.objects.in_flight().filter(concerned).values_list("delegation_id", "callee_id")
    closed = 0
    for delegation_id, callee_id in list(rows):
        reason = CALLEE_GONE if callee_id == workspace_id else CALLER_GONE
        closed += transition(delegation_id, Change(Status.FAILED, error=reason, via="removal")).moved
    return closed
