"""Delegations between two workspaces of one team, made by the product's own verb."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from activity.models import ActivityLog, StructureEvent
from delegations import services
from delegations.models import Delegation
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace


def pair(**callee: Any) -> tuple[Workspace, Workspace]:
    """Two that may talk to each other."""
    team = WorkspaceFactory()
    return WorkspaceFactory(parent=team), WorkspaceFactory(parent=team, **callee)


def delegated(caller: Workspace | None = None, callee: Workspace | None = None, **fields: Any) -> Delegation:
    """A delegation as `POST /delegate` leaves it, with columns changed afterwards."""
    if caller is None or callee is None:
        caller, callee = pair()
    text, key = fields.pop("text", "count the beans"), fields.pop("key", None)
    task = services.Task(caller_id=caller.pk, target_id=callee.pk, text=text, idempotency_key=key)
    row = services.delegate(task).row
    if fields:
        Delegation.objects.filter(pk=row.pk).update(**fields)
        row.refresh_from_db()
    return row


def fresh(row: Delegation) -> Delegation:
    return Delegation.objects.get(pk=row.pk)


def inbox(caller_id: UUID) -> QuerySet[ActivityLog]:
    """The results that the delegator was told."""
    return ActivityLog.objects.filter(
        workspace_id=caller_id, activity_type="a2a_receive", method="delegate_result"
    )


def feed(caller_id: UUID, method: str = "delegate_result") -> QuerySet[ActivityLog]:
    return ActivityLog.objects.filter(workspace_id=caller_id, activity_type="delegation", method=method)


def told(caller_id: UUID) -> list[str]:
    """The names of the recorded events, oldest first."""
    rows = StructureEvent.objects.filter(workspace_id=caller_id, event_type__startswith="DELEGATION_")
    return [
        ":".join([row.event_type.removeprefix("DELEGATION_"), *filter(None, [row.payload.get("status")])])
        for row in rows.order_by("seq")
    ]
