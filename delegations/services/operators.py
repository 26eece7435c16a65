"""What an operator does with a delegation that does not end by itself.

Source: docs/reference/delegations.md, Operators.
"""

from __future__ import annotations

from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from a2a.callers import workspace_caller
from a2a.services.queue import enqueue_message, take_back
from config.errors import Conflict, NotFound
from config.jobs import Job, enqueue
from delegations import selectors
from delegations.models import Delegation, Delivery, Status
from delegations.services.creation import DEADLINE_S
from delegations.services.execution import NO_TASK, envelope_of
from delegations.services.transitions import Change, Result, transition

log = structlog.get_logger(__name__)


def fail_delegation(*, delegation_id: str, reason: str, actor: str) -> Delegation:
    """End it; the caller is told once. Raises NotFound, Conflict (it has ended)."""
    why = f"resolved by operator: {reason}" if reason else "resolved by operator"
    row = _moved(transition(delegation_id, Change(Status.FAILED, error=why, via="operator")))
    log.info("delegation.resolved", delegation_id=delegation_id, action="fail", actor=actor)
    return row


@transaction.atomic
def requeue_delegation(*, delegation_id: str, reason: str, actor: str) -> Delegation:
    """Put the original task into the callee's queue once more, with time to be done.

    Raises NotFound, Conflict: it has ended, is being sent, or its text is no longer kept.
    """
    row = Delegation.objects.filter(pk=delegation_id).first()
    if row is None:
        raise NotFound("delegation not found")
    asked = selectors.texts(row)
    now = timezone.now()
    late = row.deadline < now
    deadline = now + timedelta(seconds=DEADLINE_S) if late else row.deadline
    columns = {
        "delivery": Delivery.QUEUE,
        "retry_count": F("retry_count") + 1,
        "deadline": deadline,
        "lease_expires_at": None,
        "error_detail": None,
    }
    change = Change(Status.DISPATCHED, via="operator", is_requeue=True, columns=columns)
    moved = _moved(transition(delegation_id, change))
    if asked.task is None:
        raise Conflict(NO_TASK, status=row.status)
    take_back(delegation_id)
    kept = enqueue_message(
        row.callee_id,
        envelope_of(row, asked),
        workspace_caller(row.caller_id),
        expires_at=deadline,
        delegation_id=delegation_id,
    )
    Delegation.objects.filter(pk=delegation_id).update(queue_id=kept.item.pk)
    log.info("delegation.resolved", delegation_id=delegation_id, action="requeue", actor=actor, reason=reason)
    moved.queue_id = kept.item.pk
    return moved


def nudge_delegation(*, delegation_id: str, actor: str) -> Delegation:
    """Ring again for one that waits for the executor, or in the queue of its callee. Changes no row: what is
    rung for twice is claimed once.

    Raises NotFound, Conflict: it has ended, or nothing of ours could make it go on.
    """
    row = Delegation.objects.filter(pk=delegation_id).first()
    if row is None:
        raise NotFound("delegation not found")
    if row.is_terminal:
        raise Conflict("delegation is terminal", status=row.status)
    if row.delivery == Delivery.QUEUE:
        enqueue(Job.A2A_DRAIN, workspace_id=row.callee_id)
    elif row.status == Status.QUEUED:
        enqueue(Job.DELEGATE, delegation_id=row.pk)
    else:
        raise Conflict("its agent has it: only an answer, or an operator's decision, moves it")
    log.info("delegation.nudged", delegation_id=delegation_id, actor=actor)
    return row


def _moved(result: Result) -> Delegation:
    if result.row is None:
        raise NotFound("delegation not found")
    if not result.moved:
        text = "delegation is terminal" if result.row.is_terminal else "delegation is being worked on"
        raise Conflict(text, status=result.row.status)
    return result.row
