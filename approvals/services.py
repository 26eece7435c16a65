"""Verbs over approvals: ask, decide, withdraw. Source: docs/reference/approvals.md."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction

from activity.events import EventType, broadcast, record
from activity.redaction import storable
from approvals.models import STATES, Approval, Status
from config.errors import Conflict, NotFound
from workspaces.models import Workspace

DECIDED = {
    Status.APPROVED: EventType.APPROVAL_APPROVED,
    Status.DENIED: EventType.APPROVAL_DENIED,
}
REQUESTER = "requester"


@transaction.atomic
def request_approval(
    *,
    workspace: Workspace,
    action: str,
    reason: str | None = None,
    task_id: str | None = None,
    context: dict[str, Any] | None = None,
) -> Approval:
    """Ask. The workspace's parent, if any, is told too."""
    approval = Approval.objects.create(
        workspace=workspace,
        action=storable(action),
        reason=storable(reason) or None,
        task_id=storable(task_id) or None,
        context=storable(context or {}),
    )
    asked = {"approval_id": str(approval.pk), "action": approval.action, "reason": approval.reason}
    record(EventType.APPROVAL_REQUESTED, workspace.pk, {**asked, "task_id": approval.task_id})
    if workspace.parent_id is not None:
        escalated = {**asked, "from_workspace_id": str(workspace.pk)}
        record(EventType.APPROVAL_ESCALATED, workspace.parent_id, escalated)
    return approval


@transaction.atomic
def decide_approval(
    *, workspace_id: UUID, approval_id: UUID, decision: Status, decided_by: str, actor: str
) -> Approval:
    """Record a person's decision; of two simultaneous ones exactly one wins.

    `decided_by` is the name the client shows, `actor` whose credential it was. Raises NotFound: unknown id,
    another workspace's question, or no longer pending.
    """
    rows = Approval.objects.filter(pk=approval_id, workspace_id=workspace_id)
    moved = STATES.move(rows, decision, decided_by=storable(decided_by), decided_actor=actor)
    if not moved:
        raise NotFound("approval not found or already decided")
    approval = moved[0]
    told = {"approval_id": str(approval_id), "decided_by": approval.decided_by}
    record(DECIDED[decision], workspace_id, {**told, "decision": decision.value})
    # The runtime waits for this one, and reads the three keys beside the payload.
    keys = ("approval_id", "status", "decided_by")
    broadcast(EventType.APPROVAL_DECIDED, workspace_id, {**told, "status": decision.value}, top=keys)
    return approval


@transaction.atomic
def withdraw_approval(*, workspace_id: UUID, approval_id: UUID, actor: str) -> Approval:
    """The asker takes its question back. Raises NotFound, or Conflict when it is no longer pending."""
    rows = Approval.objects.filter(pk=approval_id, workspace_id=workspace_id)
    moved = STATES.move(rows, Status.WITHDRAWN, decided_by=REQUESTER, decided_actor=actor)
    if not moved:
        status = rows.values_list("status", flat=True).first()
        if status is None:
            raise NotFound("approval not found")
        raise Conflict("approval not pending", status=status)
    payload = {"approval_id": str(approval_id), "decided_by": REQUESTER}
    record(EventType.APPROVAL_WITHDRAWN, workspace_id, payload)
    return moved[0]
