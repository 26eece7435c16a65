"""What messages tell the ledger: a queued one has ended, a callee answers with a message of its own.

Filled into `a2a.hooks`; runs inside the transaction of what it is told.
Source: docs/reference/delegations.md, Through the queue, Replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from a2a.answers import parts_text
from a2a.models import QueueItem, QueueStatus
from a2a.results import Result
from delegations.models import Delegation, Delivery, Status
from delegations.services.execution import LOST, settle
from delegations.services.transitions import Change, transition

DRAINED = "queue_drain"
DROPPED = "queue_drain_drop"


def queue_item_settled(item: QueueItem, result: Result | None) -> None:
    """The message of a delegation has left the queue, one way or the other."""
    if item.delegation_id is None:
        return
    if item.status == QueueStatus.COMPLETED and result is not None:
        settle(item.delegation_id, result, via=DRAINED)
        return
    via = DROPPED if item.status == QueueStatus.DROPPED else DRAINED
    reason = item.last_error or LOST
    transition(item.delegation_id, Change(Status.FAILED, error=reason, via=via))


def is_wanted(delegation_id: str) -> bool:
    """Nobody waits for the answer of a delegation that has ended."""
    return Delegation.objects.in_flight().filter(pk=delegation_id).exists()


def said(sender_id: UUID, target_id: UUID, envelope: Mapping[str, Any]) -> None:
    """A callee answers its delegator by a message: it names the delegation, or there is only one it can mean.

    A message without an id closes nothing when there are several: it may be about any of them.
    """
    params = envelope.get("params")
    message = params.get("message") if isinstance(params, dict) else None
    if envelope.get("method") != "message/send" or not isinstance(message, dict):
        return
    open_rows = Delegation.objects.in_flight().filter(caller_id=target_id, callee_id=sender_id)
    named = _named(params) or _named(message)
    if named is not None:
        found = list(open_rows.filter(pk=named))
    elif message.get("role") == "agent":
        found = list(open_rows.filter(delivery=Delivery.POLL)[:2])
    else:
        return
    if len(found) == 1:
        text = parts_text(message.get("parts"))
        transition(found[0].pk, Change(Status.COMPLETED, text=text, via="reply"))


def _named(holder: Any) -> str | None:
    metadata = holder.get("metadata") if isinstance(holder, dict) else None
    named = metadata.get("delegation_id") if isinstance(metadata, dict) else None
    return named if isinstance(named, str) and named else None
