"""Messages of the server's own: no workspace or person sent them, and nobody waits for their answer.

Source: docs/reference/a2a.md, Messages of the server.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

from django.db import transaction

from a2a.calls import Call, ask
from a2a.envelope import message_id, text_of
from a2a.services import PENDING, call_for, is_spent
from activity.models import ActivityLog
from activity.services import INBOX_TYPE, complete_activity, log_activity
from config.errors import BadGateway, DomainError, NotFound, PaymentRequired
from config.locks import lock_in_transaction, outside_transaction
from workspaces.models import DeliveryMode, Workspace

TURN_S = 60.0  # a worker waits for the agent: what it thinks longer about goes on without us


def tell(*, target_id: UUID, caller: str, envelope: dict[str, Any]) -> None:
    """Put a normalised message of `caller` (`system:<name>`) before an agent, once per `messageId`.

    Returns once the agent has it: in its inbox, answered, or still thinking after TURN_S. Raises NotFound,
    PaymentRequired, Unavailable (no url), BadGateway (not reached), or the agent's own refusal.
    """
    outside_transaction()
    target = Workspace.objects.live().filter(pk=target_id).first()
    if target is None:
        raise NotFound("workspace not found")
    if is_spent(target):
        raise PaymentRequired("workspace budget limit exceeded")
    call = None if target.delivery_mode == DeliveryMode.POLL else call_for(target)
    row = _stored(target, caller, envelope, is_push=call is not None)
    if call is not None and row.response_body is None:
        _turn(call, row, envelope)


@transaction.atomic
def _stored(target: Workspace, caller: str, envelope: dict[str, Any], *, is_push: bool) -> ActivityLog:
    """The row of the message, written before it is sent; a repeat finds it."""
    known_id = message_id(envelope)
    lock_in_transaction(f"a2a:{target.pk}:{known_id}")
    return log_activity(
        workspace_id=target.pk,
        activity_type=INBOX_TYPE,
        announce=not is_push,
        target_id=target.pk,
        method=envelope.get("method"),
        summary=f"{caller}: {text_of(envelope)[:200]}",
        request_body=envelope,
        message_id=known_id,
        status=PENDING if is_push else "ok",
    )


def _turn(call: Call, row: ActivityLog, envelope: dict[str, Any]) -> None:
    began = time.monotonic()
    try:
        answer = asyncio.run(_bounded(call, envelope))
    except DomainError as error:
        _close(row, began, error=error)
        raise
    if answer is None:
        _close(row, began, error=BadGateway("the agent has not answered yet"))
    else:
        _close(row, began, answer=answer)


async def _bounded(call: Call, envelope: dict[str, Any]) -> Any:
    """The agent's answer, or None when it still thinks after TURN_S."""
    try:
        async with asyncio.timeout(TURN_S):
            return (await ask(call, envelope))[1]
    except TimeoutError:
        return None


def _close(row: ActivityLog, began: float, *, answer: Any = None, error: DomainError | None = None) -> None:
    """Unlike a person's message it sends no A2A_RESPONSE: nobody at a canvas asked."""
    complete_activity(
        row_id=row.pk,
        status="error" if error else "ok",
        response_body=answer,
        error_detail=error.text if error else None,
        duration_ms=max(1, int((time.monotonic() - began) * 1000)),
        announce=True,
    )
