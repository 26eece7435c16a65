"""One run: taken by one worker, sent to the agent, written down, handed on to the channels.

A run that nobody took is taken later; one whose worker dies in the middle is not repeated, because its
agent may have it. Source: docs/reference/schedules.md, A run.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError
from django.db.models.functions import Now
from django.utils import timezone

from a2a.callers import system_caller
from a2a.dispatch import Terms, proxy_a2a
from a2a.results import Kind, Result
from a2a.services.queue import enqueue_message
from a2a.services.targets import admitted
from config.errors import DomainError
from config.jobs import Job, enqueue
from config.leases import LEASE
from config.locks import lock_in_transaction, release_connection
from config.persistence import persistent
from schedules import hooks
from schedules.leases import keeper
from schedules.models import Schedule
from schedules.services.claiming import NEVER
from schedules.services.outcomes import finish
from schedules.statements import bounded
from schedules.verdicts import ERROR, NOTHING_SAID, OK, QUEUED, SKIPPED, Outcome, outcome_of
from workspaces.models import Workspace

log = structlog.get_logger(__name__)

CALLER = system_caller("system:scheduler")
MOST_AT_ONCE = 10
TURN_S = 300.0
INTERNAL = "internal error"
# It surely did not arrive, and there will be somebody to take it: it waits until its next time.
_PASSING = frozenset({Kind.BUSY, Kind.SETTLING, Kind.WAKING, Kind.DEAD})


@dataclass(frozen=True)
class Run:
    """What a worker took: the schedule as it was then. `is_busy`: its agent had no hand free."""

    pk: UUID
    workspace_id: UUID
    slot: datetime
    next_run_at: datetime | None
    prompt: str
    is_busy: bool


def fire(schedule_id: UUID) -> None:
    """Carry out the claimed run of a schedule. A doubled or late ring finds it taken, and leaves."""
    run = _take(schedule_id)
    if run is None:
        return
    began = timezone.now()
    with keeper.keeping(str(run.pk)):
        try:
            outcome = _carried_out(run)
        except Exception:
            log.exception("schedule.run_failed", schedule_id=str(run.pk))
            outcome = Outcome(ERROR, error=INTERNAL)
        is_ours = persistent(lambda: finish(run, outcome, began=began))
    log.info("schedule.fired", schedule_id=str(run.pk), status=outcome.status)
    _ring_for_next()
    if is_ours:
        hand_on(run.workspace_id, outcome)


def hand_on(workspace_id: UUID, outcome: Outcome) -> None:
    """What an agent said goes to its channels."""
    if outcome.status != OK or outcome.text in NOTHING_SAID:
        return
    for hook in hooks.answered:
        try:
            hook(workspace_id, outcome.text)
        except Exception:
            log.exception("schedule.not_handed_on", workspace_id=str(workspace_id))


def _take(schedule_id: UUID) -> Run | None:
    """Of any number of workers that were rung for, one gets the run; at most ten are under way anywhere."""
    with bounded():
        lock_in_transaction("schedules:take")
        running = Schedule.objects.in_flight().filter(lease_expires_at__gt=Now()).count()
        if running >= MOST_AT_ONCE:
            return None  # it waits; whoever ends a run rings for the oldest that does
        row = Schedule.objects.waiting().filter(pk=schedule_id).select_for_update().first()
        if row is None:
            return None
        assert row.slot is not None
        target = Workspace.objects.get(pk=row.workspace_id)
        if not row.enabled or target.status in NEVER:
            if row.enabled:  # paused since: it is due again, and late, when that is over
                row.next_run_at = row.slot
            row.slot = None
            row.save(update_fields=["slot", "next_run_at"])
            return None
        Schedule.objects.filter(pk=row.pk).update(lease_expires_at=Now() + LEASE)
        is_busy = target.active_tasks >= target.max_concurrent_tasks
        return Run(row.pk, row.workspace_id, row.slot, row.next_run_at, row.prompt, is_busy)


def _ring_for_next() -> None:
    oldest = Schedule.objects.waiting().order_by("slot").values_list("pk", flat=True).first()
    if oldest is not None:
        enqueue(Job.SCHEDULE_FIRE, schedule_id=oldest)


def _carried_out(run: Run) -> Outcome:
    envelope = _message(run)
    if run.is_busy:
        return _kept(run, envelope)
    terms = Terms(total_s=TURN_S, queues_on_timeout=False, queue_key=str(run.pk), expires_at=run.next_run_at)
    result = proxy_a2a(run.workspace_id, envelope, CALLER, terms)
    return _kept(run, envelope) if _is_passing(result) else outcome_of(result)


def _is_passing(result: Result) -> bool:
    return result.kind in _PASSING and result.is_certainly_undelivered


def _kept(run: Run, envelope: dict[str, Any]) -> Outcome:
    """Put the message into the agent's queue: one of each schedule, for as long as it is the newest."""
    keep = partial(
        enqueue_message, run.workspace_id, envelope, CALLER, key=str(run.pk), expires_at=run.next_run_at
    )
    try:
        admitted(run.workspace_id, CALLER)
        persistent(keep)
    except DomainError as error:
        return Outcome(SKIPPED, error=error.text)
    except DatabaseError:
        log.exception("schedule.not_queued", schedule_id=str(run.pk))
        return Outcome(SKIPPED, error="the message could not be queued")
    return Outcome(QUEUED)


def _message(run: Run) -> dict[str, Any]:
    """One text part. The id names the run, so that an agent can tell a repeat from the next run."""
    message_id = f"cron-{str(run.pk)[:8]}-{secrets.token_hex(4)}"
    message = {
        "role": "user",
        "messageId": message_id,
        "parts": [{"kind": "text", "text": _with_context(run)}],
    }
    return {"jsonrpc": "2.0", "id": message_id, "method": "message/send", "params": {"message": message}}


def _with_context(run: Run) -> str:
    release_connection()
    texts = []
    for hook in hooks.recent_context:
        try:
            texts.append(hook(run.workspace_id).strip())
        except Exception:
            log.exception("schedule.no_context", schedule_id=str(run.pk))
    return "\n\n".join([*filter(None, texts), run.prompt])
