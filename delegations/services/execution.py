"""Sending a delegation to its callee, once, and taking down what became of it.

The worker may die at any line. Before the claim nothing was sent, and the sweeper has it begun again; after
it nobody sends again by itself: the row becomes `stuck`, and a late report of the callee still completes it.
Source: docs/reference/delegations.md, The executor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import structlog
from django.db.models import F
from django.db.models.functions import Now

from a2a.callers import workspace_caller
from a2a.dispatch import Terms, proxy_a2a
from a2a.judgement import queued
from a2a.results import Kind, Result
from a2a.services.queue import enqueue_message
from a2a.services.targets import is_recovering
from config.leases import LEASE
from config.locks import release_connection
from config.persistence import persistent
from delegations import selectors
from delegations.leases import keeper
from delegations.models import Delegation, Delivery, Status
from delegations.previews import shown_duration
from delegations.services.transitions import Change, mark_waiting, transition

log = structlog.get_logger(__name__)

BUDGET_S = 1800.0
PAUSE_S = 8.0  # before the one more attempt that a message gets which surely did not arrive
LOST = "response lost after delivery — the target may have completed the work"
NO_TASK = "the task's text is no longer kept"
SILENT = f"no answer within {shown_duration(BUDGET_S)} of dispatch"
_NO_LEASE = {"lease_expires_at": None}
_TRY_AGAIN = frozenset({Kind.DEAD, Kind.UNREACHABLE, Kind.SETTLING, Kind.WAKING})


@dataclass(frozen=True)
class Verdict:
    """What an outcome means for the delegation: a change, or a place where the message waits."""

    change: Change | None = None
    waits: Delivery | None = None


def dispatch(delegation_id: str) -> None:
    """Send what nobody has begun to send. A doubled or late ring finds it claimed, and leaves."""
    row = _claimed(delegation_id)
    if row is None:
        return
    asked = selectors.texts(row)
    if asked.task is None:
        transition(row.pk, Change(Status.FAILED, error=NO_TASK))
        return
    with keeper.keeping(row.pk):
        result = _sent(row, envelope_of(row, asked))
        persistent(lambda: settle(row.pk, result))


def envelope_of(row: Delegation, asked: selectors.Texts) -> dict[str, Any]:
    """The A2A message of a delegation; its id is the delegation's, so a repeat can be recognised."""
    message = {
        "role": "user",
        "messageId": row.pk,
        "parts": [
            {"kind": "text", "text": asked.task},
            *({"kind": "file", "file": dict(one)} for one in asked.attachments),
        ],
        "metadata": {"delegation_id": row.pk},
    }
    return {"jsonrpc": "2.0", "id": row.pk, "method": "message/send", "params": {"message": message}}


def settle(delegation_id: str, result: Result, *, via: str = "") -> None:
    """Write down what became of the message."""
    verdict = verdict_on(result, via=via)
    log.info("delegation.settled", delegation_id=delegation_id, kind=result.kind, delivered=result.delivered)
    if verdict.waits is not None:
        mark_waiting(delegation_id, verdict.waits, result.queue_id)
    elif verdict.change is not None:
        transition(delegation_id, verdict.change)


def verdict_on(result: Result, *, via: str = "") -> Verdict:
    """Pure: docs/reference/delegations.md, The executor."""
    match result.kind:
        case Kind.ANSWER:
            return Verdict(Change(Status.COMPLETED, text=result.text, via=via))
        case Kind.TASK_OPEN:
            return Verdict(Change(Status.IN_PROGRESS, columns=_NO_LEASE, via=via))
        case Kind.QUEUED_BUSY:
            return Verdict(waits=Delivery.QUEUE)
        case Kind.QUEUED_POLL:
            return Verdict(waits=Delivery.POLL)
        case Kind.LOST_RESPONSE:
            return Verdict(Change(Status.FAILED, error=LOST, via=via))
        case Kind.AGENT_ERROR if result.is_gateway and not result.is_certainly_undelivered:
            return Verdict(Change(Status.FAILED, error=LOST, via=via))
        case Kind.BUSY if not result.is_certainly_undelivered:  # it may be at work: a late report counts
            return Verdict(Change(Status.STUCK, error=SILENT, columns=_NO_LEASE, via=via))
    reason = result.error or f"the message was not taken: {result.kind}"
    return Verdict(Change(Status.FAILED, error=reason, via=via))


def _claimed(delegation_id: str) -> Delegation | None:
    """Of any number of workers that were rung for, one gets it."""
    columns = {"delivery": Delivery.DIRECT, "lease_expires_at": Now() + LEASE}
    result = transition(delegation_id, Change(Status.DISPATCHED, columns=columns))
    return result.row if result.moved else None


def _sent(row: Delegation, envelope: dict[str, Any]) -> Result:
    """What became of the message, at once or, when it surely did not arrive, at the second attempt. A target
    that is on its way gets it through the queue.
    """
    caller, ends_at = workspace_caller(row.caller_id), time.monotonic() + BUDGET_S
    terms = Terms(total_s=BUDGET_S, queues_on_timeout=False, delegation_id=row.pk, expires_at=row.deadline)
    result = proxy_a2a(row.callee_id, envelope, caller, terms)
    if result.kind != Kind.WAKING and _may_try_again(result):
        release_connection()
        time.sleep(PAUSE_S)
        Delegation.objects.in_flight().filter(pk=row.pk).update(retry_count=F("retry_count") + 1)
        terms = replace(terms, total_s=ends_at - time.monotonic())
        result = proxy_a2a(row.callee_id, envelope, caller, terms)
    is_on_its_way = result.kind == Kind.WAKING or (_may_try_again(result) and is_recovering(row.callee_id))
    if not is_on_its_way:
        return result
    kept = persistent(
        lambda: enqueue_message(
            row.callee_id, envelope, caller, expires_at=row.deadline, delegation_id=row.pk
        )
    )
    return queued(kept.item.pk, kept.depth, result.delivered)


def _may_try_again(result: Result) -> bool:
    """Only what certainly did not arrive, and may arrive in a moment."""
    is_passing = result.kind in _TRY_AGAIN or (result.kind == Kind.AGENT_ERROR and result.is_gateway)
    return is_passing and result.is_certainly_undelivered
