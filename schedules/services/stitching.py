"""What the queue tells of a run whose agent was busy. Filled into `a2a.hooks`.

Source: docs/reference/schedules.md, A busy agent.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from a2a.models import QueueItem, QueueStatus
from a2a.results import Result
from schedules.services.firing import CALLER, hand_on
from schedules.services.outcomes import finish_queued
from schedules.verdicts import ERROR, SKIPPED, Outcome, outcome_of


def queue_item_settled(item: QueueItem, result: Result | None) -> None:
    """The message of a run has left the queue, one way or the other; inside the queue's transaction."""
    if item.caller_label != CALLER.label or item.idempotency_key is None:
        return
    outcome = _outcome(item, result)
    began = item.dispatched_at or item.enqueued_at
    known = finish_queued(item.workspace_id, UUID(item.idempotency_key), outcome, began=began)
    if known:
        transaction.on_commit(lambda: hand_on(item.workspace_id, outcome), robust=True)


def _outcome(item: QueueItem, result: Result | None) -> Outcome:
    if item.status == QueueStatus.DROPPED:
        return Outcome(SKIPPED, error=item.last_error or "its next time came first")
    if item.status == QueueStatus.COMPLETED and result is not None:
        return outcome_of(result)
    return Outcome(ERROR, error=item.last_error or "the agent did not take it")
