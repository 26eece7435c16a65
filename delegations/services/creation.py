"""A delegation begins: one row, its line in the feed, its event and its start, in one transaction.

Source: docs/reference/delegations.md, Delegating.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from activity.delegation_lines import lock_feed, release_key, write_step
from activity.redaction import storable
from config.errors import BadRequest, Conflict, Forbidden, NotFound, Unavailable
from config.jobs import Job, enqueue
from config.locks import lock_in_transaction
from delegations.models import Delegation, Source, Status, new_id
from delegations.previews import cut
from delegations.services import steps
from workspaces.models import Workspace
from workspaces.selectors import can_communicate

DEADLINE_S = 6 * 3600
_OFF = "delegations are switched off: DELEGATION_LEDGER_WRITE is not 1"


@dataclass(frozen=True)
class Task:
    """What is asked of whom. `idempotency_key`: a repeat of the call finds the first one's delegation."""

    caller_id: UUID
    target_id: UUID
    text: str
    idempotency_key: str | None = None
    deadline_s: int = DEADLINE_S
    source: Source = Source.API
    inline_until: datetime | None = None
    attachments: Sequence[Mapping[str, Any]] = ()  # references to files, judged


@dataclass(frozen=True)
class Accepted:
    row: Delegation
    is_repeat: bool = False


def delegate(task: Task) -> Accepted:
    """Write the delegation down and have it sent.

    Raises BadRequest (to itself), NotFound, Forbidden, Conflict (the key stands for another target),
    Unavailable (switched off).
    """
    callee = _callee(task)
    with transaction.atomic():
        if task.idempotency_key:
            lock_in_transaction(f"delegate:{task.caller_id}:{task.idempotency_key}")
            if (known := _holder_of_key(task)) is not None:
                return Accepted(known, is_repeat=True)
        _check_switched_on()
        row = _write(task, delegation_id=new_id(), status=Status.QUEUED, callee_name=callee.name)
        enqueue(Job.DELEGATE, delegation_id=row.pk)
    return Accepted(row)


def record_delegation(*, caller_id: UUID, target_id: UUID, text: str, delegation_id: str) -> Accepted:
    """Take down what the agent has sent by itself: nothing is sent, and no hierarchy is asked.

    Raises BadRequest (to itself), Conflict (somebody else's id), Unavailable (switched off, and new).
    """
    _check_not_self(caller_id, target_id)
    task = Task(caller_id, target_id, text, source=Source.RECORD)
    with transaction.atomic():
        lock_in_transaction(f"delegation:{delegation_id}")
        known = Delegation.objects.filter(pk=delegation_id).first()
        if known is not None:
            if (known.caller_id, known.callee_id) != (caller_id, target_id):
                raise Conflict("delegation_id already in use")
            return Accepted(known, is_repeat=True)
        _check_switched_on()
        name = Workspace.objects.filter(pk=target_id).values_list("name", flat=True).first()
        # It was queued and is dispatched, in the one transaction that tells of it.
        row = _write(
            task, delegation_id=delegation_id, status=Status.DISPATCHED, callee_name=name or str(target_id)
        )
    return Accepted(row)


def _callee(task: Task) -> Workspace:
    _check_not_self(task.caller_id, task.target_id)
    callee = Workspace.objects.live().filter(pk=task.target_id).first()
    if callee is None:
        raise NotFound("target workspace not found")
    if not can_communicate(task.caller_id, task.target_id):
        raise Forbidden("access denied: workspaces cannot communicate per hierarchy rules")
    return callee


def _check_not_self(caller_id: UUID, target_id: UUID) -> None:
    if caller_id == target_id:
        raise BadRequest(
            "self-delegation not permitted",
            reason="a workspace would wait for itself",
            hint="repeating this call can never work: do the task yourself, or name another workspace",
        )


def _check_switched_on() -> None:
    if not settings.DELEGATION_LEDGER_WRITE:
        raise Unavailable(_OFF)


def _holder_of_key(task: Task) -> Delegation | None:
    """The delegation that answers for the key; None when the key is free, or has been freed now.

    The caller holds the key's lock. Raises Conflict.
    """
    rows = Delegation.objects.filter(caller_id=task.caller_id, idempotency_key=storable(task.idempotency_key))
    known = rows.first()
    if known is None:
        return None
    if known.status == Status.FAILED or _is_out_of_window(known):
        rows.update(idempotency_key=None)  # the row stays: its id can still be asked for
        release_key(task.caller_id, str(storable(task.idempotency_key)))
        return None
    if known.callee_id != task.target_id:
        raise Conflict("idempotency_key already used for another target", delegation_id=known.pk)
    return known


def _is_out_of_window(row: Delegation) -> bool:
    """Agents derive keys from the task's text: a recurring task must not get its old answer for ever."""
    window = settings.DELEGATION_IDEMPOTENCY_WINDOW_S
    if row.status != Status.COMPLETED or not window or row.finished_at is None:
        return False
    return row.finished_at < timezone.now() - timedelta(seconds=window)


def _write(task: Task, *, delegation_id: str, status: Status, callee_name: str) -> Delegation:
    now = timezone.now()
    text = storable(task.text)
    row = Delegation.objects.create(
        delegation_id=delegation_id,
        caller_id=task.caller_id,
        callee_id=task.target_id,
        task_preview=cut(text),
        status=status,
        deadline=now + timedelta(seconds=task.deadline_s),
        idempotency_key=storable(task.idempotency_key) or None,
        source=task.source,
        inline_until=task.inline_until,
        dispatched_at=now if status == Status.DISPATCHED else None,
        created_at=now,
        updated_at=now,
    )
    lock_feed(task.caller_id)
    write_step(
        workspace_id=task.caller_id,
        delegation_id=row.pk,
        shown=row.shown,
        lines=[steps.task_line(row, task=text, attachments=task.attachments, callee_name=callee_name)],
        events=[steps.sent_event(row, text)],
    )
    return row
