"""The one way a delegation changes: lock the row, decide, write everything in the same transaction.

Three statements: the row with its locks, its change, its lines and events. A fourth only takes a message
back that still waits in the queue. Source: docs/reference/delegations.md, Changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from a2a.services.queue import take_back
from activity.delegation_lines import DELEGATION_TYPE, refresh_copy, write_step
from activity.services import log_activity
from activity.tally import tally
from config.states import update_returning
from delegations.models import MOVES, Delegation, Delivery, Status
from delegations.previews import is_cut, preview
from delegations.selectors import outcome_text
from delegations.services import steps

log = structlog.get_logger(__name__)

_COLUMNS = ", ".join(f"d.{field.column}" for field in Delegation._meta.concrete_fields)
# The row first, then the delegator's feed: everybody takes the two locks in this order.
_LOCK = f"""
WITH d AS MATERIALIZED (SELECT * FROM delegations WHERE delegation_id = %(id)s FOR UPDATE {{wait}})
SELECT {_COLUMNS}, coalesce(callee.name, d.callee_id::text) AS callee_name,
       coalesce(caller.status <> 'removed', false) AS caller_is_live,
       pg_advisory_xact_lock(hashtextextended('activity:' || d.caller_id, 0)) AS feed
FROM d LEFT JOIN workspaces callee ON callee.id = d.callee_id
LEFT JOIN workspaces caller ON caller.id = d.caller_id
"""


OF_THE_QUEUE = frozenset({"queue_drain", "queue_drain_drop"})  # ends that the queue itself tells


class Outcome(StrEnum):
    MOVED = "moved"
    REPLAY = "replay"  # it is there already; a text that was missing has been filled in
    REFUSED = "refused"  # the move is not legal, or no longer what was meant
    MISSING = "missing"


@dataclass(frozen=True)
class Change:
    """Where a delegation goes, and what is known about it. `text` is the whole answer, `error` the reason.

    `only_if` is judged under the lock: what made somebody ask may have passed. `columns` are stored besides.
    """

    to: Status
    text: str | None = None
    error: str | None = None
    via: str = ""
    only_if: Callable[[Delegation], bool] | None = None
    is_requeue: bool = False  # an operator's: the one way from `stuck` back to `dispatched`
    columns: dict[str, Any] | None = None


@dataclass(frozen=True)
class Result:
    outcome: Outcome
    row: Delegation | None = None

    @property
    def moved(self) -> bool:
        return self.outcome == Outcome.MOVED


def locked(delegation_id: str, *, skips_locked: bool = False) -> Delegation | None:
    """The row and its delegator's feed, held until the transaction ends.

    `callee_name` and `caller_is_live` are attributes of the row. None: unknown, or held by somebody else.
    """
    statement = _LOCK.format(wait="SKIP LOCKED" if skips_locked else "")
    return next(iter(Delegation.objects.raw(statement, {"id": delegation_id})), None)


@transaction.atomic
def transition(delegation_id: str, change: Change, *, skips_locked: bool = False) -> Result:
    """Make the change, once. Of two racing ends exactly one moves the row and tells the delegator.

    A repeat never moves the row, never tells again and never replaces a text: it fills in what was missing.
    """
    if not delegation_id:
        raise ValueError("a transition needs a delegation")
    row = locked(delegation_id, skips_locked=skips_locked)
    if row is None:
        return Result(Outcome.MISSING)
    if change.only_if is not None and not change.only_if(row):
        return Result(Outcome.REFUSED, row)
    if row.status == change.to and not change.is_requeue:
        return Result(Outcome.REPLAY, _filled(row, change))
    if not _is_legal(row, change):
        _note_refusal(row, change)
        return Result(Outcome.REFUSED, row)
    return Result(Outcome.MOVED, _moved(row, change))


def _is_legal(row: Delegation, change: Change) -> bool:
    if change.is_requeue and row.status == Status.STUCK and change.to == Status.DISPATCHED:
        return True
    return row.status in MOVES[change.to]


def _note_refusal(row: Delegation, change: Change) -> None:
    """A late or repeated write is no failure. A result that comes after the delegation was given up is kept
    where people can find it.
    """
    log.info("delegation.refused", delegation_id=row.pk, was=row.status, wanted=change.to, via=change.via)
    if row.status == Status.FAILED and change.to == Status.COMPLETED and _caller_is_live(row):
        log_activity(
            workspace_id=row.caller_id,
            activity_type=DELEGATION_TYPE,
            method="delegate_result_late",
            announce=False,
            source_id=row.caller_id,
            target_id=row.callee_id,
            summary="A result came after its delegation had failed",
            request_body={"delegation_id": row.pk},
            response_body={"text": change.text or "", "delegation_id": row.pk},
            status="completed",
            idempotency_key=f"delegation:{row.pk}:late",
        )
    transaction.on_commit(lambda: tally.add("molecule_delegation_refused_total"), robust=True)


def _filled(row: Delegation, change: Change) -> Delegation:
    """Either order of "it is done" and "this is the answer" ends with the answer stored."""
    missing: dict[str, Any] = {}
    if row.result_preview is None and change.text is not None and row.status == Status.COMPLETED:
        missing |= _result(change)
    if row.error_detail is None and change.error is not None and row.status == Status.FAILED:
        missing["error_detail"] = preview(change.error)
    if not missing:
        return row
    stored = _stored(row, **missing)
    text, error = change.text or "", change.error or ""
    line = steps.result_line(stored, text=text, error=error)
    write_step(workspace_id=row.caller_id, delegation_id=row.pk, shown=stored.shown, lines=[line])
    copy = steps.inbox_copy(stored, text=text or error, callee_name=_callee_name(row))
    refresh_copy(row.caller_id, copy)
    return stored


def _moved(row: Delegation, change: Change) -> Delegation:
    now = {"dispatched_at": Now()} if change.to == Status.DISPATCHED else {}
    changes: dict[str, Any] = {"status": change.to, **now, **(change.columns or {})}
    if change.error is not None or change.to == Status.IN_PROGRESS:  # no longer stuck, if it was
        changes["error_detail"] = preview(change.error)
    if change.to not in {Status.COMPLETED, Status.FAILED}:
        stored = _stored(row, **changes)
        event = steps.status_event(stored, stored.shown)
        write_step(workspace_id=row.caller_id, delegation_id=row.pk, shown=stored.shown, events=[event])
    else:
        stored = _ended(row, change, changes)
    _count(change)
    return stored


def _ended(row: Delegation, change: Change, changes: dict[str, Any]) -> Delegation:
    text, error = change.text or "", change.error or ""
    if change.to == Status.COMPLETED:
        changes |= {**_result(change), "error_detail": None}  # if it was stuck, it no longer is
    told = is_owed(row)
    if told:
        changes["notified_at"] = Now()
    stored = _stored(row, **changes, finished_at=Now(), lease_expires_at=None)
    lines = [steps.result_line(stored, text=text, error=error)]
    if told:
        lines.append(steps.inbox_copy(stored, text=text or error, callee_name=_callee_name(row)))
    event = steps.end_event(stored, text=text, error=error, via=change.via)
    write_step(
        workspace_id=row.caller_id, delegation_id=row.pk, shown=stored.shown, lines=lines, events=[event]
    )
    if row.delivery == Delivery.QUEUE and change.via not in OF_THE_QUEUE:
        take_back(row.pk)
    return stored


def _result(change: Change) -> dict[str, Any]:
    return {"result_preview": preview(change.text), "result_is_cut": is_cut(change.text)}


def is_owed(row: Delegation) -> bool:
    """Whether the end is told through the inbox, now: not to one that waits on the line, nor to one that is
    gone.
    """
    return (
        bool(settings.DELEGATION_RESULT_INBOX_PUSH)
        and row.inline_until is None
        and row.notified_at is None
        and _caller_is_live(row)
    )


def _stored(row: Delegation, **changes: Any) -> Delegation:
    """Change the locked row, and no other version of it."""
    (stored,) = update_returning(Delegation.objects.filter(pk=row.pk), updated_at=Now(), **changes)
    return stored


def _count(change: Change) -> None:
    to, via = str(change.to), change.via or "direct"
    transaction.on_commit(
        lambda: tally.add("molecule_delegation_transitions_total", to=to, via=via), robust=True
    )


def _callee_name(row: Delegation) -> str:
    return str(row.callee_name)  # type: ignore[attr-defined]  # of `locked`


def _caller_is_live(row: Delegation) -> bool:
    return bool(row.caller_is_live)  # type: ignore[attr-defined]  # of `locked`


@transaction.atomic
def mark_waiting(delegation_id: str, delivery: Delivery, queue_id: UUID | None = None) -> Result:
    """The message waits for its reader: a fact of delivery, the status stays. Told once."""
    row = locked(delegation_id)
    if row is None:
        return Result(Outcome.MISSING)
    if row.is_terminal:
        return Result(Outcome.REFUSED, row)
    if row.delivery == delivery and row.queue_id == queue_id:
        return Result(Outcome.REPLAY, row)
    stored = _stored(row, delivery=delivery, queue_id=queue_id, lease_expires_at=None)
    write_step(
        workspace_id=row.caller_id,
        delegation_id=row.pk,
        shown=stored.shown,
        lines=[steps.waiting_line(stored, delivery)],
        events=[steps.status_event(stored, "queued")],
    )
    return Result(Outcome.MOVED, stored)


@transaction.atomic
def hang_up(delegation_id: str) -> Delegation:
    """The delegator stops waiting on the line: an end is told there, anything later goes to its inbox.

    Raises Delegation.DoesNotExist.
    """
    row = locked(delegation_id)
    if row is None:
        raise Delegation.DoesNotExist(delegation_id)
    if row.is_terminal:
        return row if row.notified_at else _stored(row, notified_at=Now())
    return _stored(row, inline_until=None)


@transaction.atomic
def tell_owed(delegation_id: str) -> bool:
    """Put an end into the inbox that nobody confirmed to have been told on the line."""
    row = locked(delegation_id)
    if row is None or not row.is_terminal or row.notified_at is not None:
        return False
    row.inline_until = None
    told = is_owed(row)
    _stored(row, inline_until=None, **({"notified_at": Now()} if told else {}))
    if told:
        copy = steps.inbox_copy(row, text=outcome_text(row), callee_name=_callee_name(row))
        write_step(workspace_id=row.caller_id, delegation_id=row.pk, shown=row.shown, lines=[copy])
    return told
