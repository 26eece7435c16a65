"""What agents report about a delegation: how it ended, that it waits, that it is being worked on.

Source: docs/reference/delegations.md, Reporting.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from activity.delegation_lines import RESULT, lines_of, write_step
from config.errors import NotFound
from config.states import update_returning
from delegations.models import Delegation, Delivery, Status
from delegations.services import steps
from delegations.services.transitions import Change, Outcome, Result, locked, transition


def report_end(
    *, workspace_id: UUID, delegation_id: str, status: Status, text: str | None, error: str | None
) -> Result:
    """The caller or the callee says how it ended. Raises NotFound for anybody else.

    A repeat changes nothing; the opposite of what is stored is refused.
    """
    _check_concerned(workspace_id, delegation_id)
    if status == Status.FAILED:
        error = error or text or "the agent reported a failure without a reason"
        text = None
    return transition(delegation_id, Change(status, text=text, error=error))


@transaction.atomic
def report_waiting(*, workspace_id: UUID, delegation_id: str) -> None:
    """The caller found the callee busy: a place for the result, told once; the ledger stays as it is."""
    _check_concerned(workspace_id, delegation_id)
    row = locked(delegation_id)
    if row is None or row.is_terminal:
        return
    if lines_of(row.caller_id, row.pk).filter(method=RESULT).exists():
        return
    write_step(
        workspace_id=row.caller_id,
        delegation_id=row.pk,
        shown="queued",
        lines=[steps.waiting_line(row, Delivery.QUEUE)],
        events=[steps.status_event(row, "queued")],
    )


@transaction.atomic
def beat(*, workspace_id: UUID, delegation_id: str) -> Delegation:
    """Somebody works on it: the one writer of `last_heartbeat`. An ended row stays as it is.

    Raises NotFound.
    """
    _check_concerned(workspace_id, delegation_id)
    columns = {"last_heartbeat": Now()}
    change = Change(Status.IN_PROGRESS, only_if=lambda row: not row.is_terminal, columns=columns)
    result = transition(delegation_id, change)
    if result.outcome == Outcome.REPLAY:
        update_returning(Delegation.objects.filter(pk=delegation_id), updated_at=Now(), **columns)
    assert result.row is not None
    return result.row


def _check_concerned(workspace_id: UUID, delegation_id: str) -> None:
    row = Delegation.objects.filter(pk=delegation_id).first()
    if row is None or not row.concerns(workspace_id):
        raise NotFound("delegation not found")
