"""Taking a message for a workspace: who may send, the row at receipt, the answer.

Source: docs/reference/a2a.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from a2a.calls import ANSWER_S, Call
from a2a.envelope import message_id, text_of
from access.credentials import Kind, Principal
from access.url_policy import vetted_address
from activity.events import EventType, broadcast
from activity.models import ActivityLog
from activity.services import INBOX_TYPE, complete_activity, log_activity
from config.errors import (
    BadGateway,
    BadRequest,
    DomainError,
    Forbidden,
    NotFound,
    PaymentRequired,
    Unauthorized,
    Unavailable,
)
from config.locks import lock_in_transaction
from provisioning.services import is_waking, wake
from workspaces.budgets import effective_spend
from workspaces.defaults import is_saas
from workspaces.models import DeliveryMode, Status, UrlSource, Workspace
from workspaces.selectors import can_communicate
from workspaces.services import inbound_secret

PENDING = "pending"
WAKING_S = 15  # after which a sender may ask again


def caller_id(principal: Principal, claimed: str | None) -> UUID | None:
    """The sending workspace, None for the canvas user. Raises Unauthorized, BadRequest."""
    if principal.kind == Kind.WORKSPACE:
        return principal.workspace_id
    if not principal.is_admin_class:
        anonymous = principal.kind == Kind.ANONYMOUS
        raise Unauthorized("missing workspace auth token" if anonymous else "invalid workspace auth token")
    if not claimed:
        return None
    try:
        return UUID(claimed)
    except ValueError:
        raise BadRequest("invalid X-Workspace-ID") from None


@dataclass(frozen=True)
class Received:
    """A stored message; `is_in_flight`: the same one came before and its agent is still thinking."""

    target: Workspace
    row: ActivityLog
    is_in_flight: bool = False


def receive(*, target_id: UUID, sender_id: UUID | None, envelope: dict[str, Any]) -> Received:
    """Check that the message may go there and store it before anything is sent.

    A crash then loses the reply, not the message. Raises NotFound, Forbidden, PaymentRequired. A repeated
    `messageId` gives the stored row.
    """
    target = Workspace.objects.live().filter(pk=target_id).first()
    if target is None:
        raise NotFound("workspace not found")
    if sender_id is not None and not can_communicate(sender_id, target_id):
        raise Forbidden("access denied: workspaces cannot communicate per hierarchy rules")
    if is_spent(target):
        raise PaymentRequired("workspace budget limit exceeded")
    known_id = message_id(envelope)
    with transaction.atomic():
        if known_id:
            lock_in_transaction(f"a2a:{target_id}:{known_id}")  # of two that come at once one is the repeat
            known = ActivityLog.objects.filter(workspace_id=target_id, message_id=known_id).first()
            if known is not None:
                age = timezone.now() - known.created_at
                in_flight = known.status == PENDING and age < timedelta(seconds=ANSWER_S)
                return Received(target, known, is_in_flight=in_flight)
        row = log_activity(
            workspace_id=target_id,
            activity_type=INBOX_TYPE,
            announce=target.delivery_mode == DeliveryMode.POLL,
            source_id=sender_id,
            target_id=target_id,
            method=envelope.get("method"),
            summary=text_of(envelope)[:200],
            request_body=envelope,
            message_id=known_id,
            status="ok" if target.delivery_mode == DeliveryMode.POLL else PENDING,
        )
    return Received(target, row)


def is_spent(target: Workspace) -> bool:
    """Whether the workspace has used up its monthly budget; without a limit it never has."""
    if target.budget_limit is None:
        return False
    return (
        effective_spend(target.monthly_spend, target.spend_month, now=timezone.now()) >= target.budget_limit
    )


def call_for(target: Workspace) -> Call:
    """How to reach a push-mode workspace.

    Raises Unavailable (no url, or asleep: then it is woken), BadGateway (an address we do not call).
    """
    if not target.url:
        if wake_sleeping(target) or is_waking(target):
            raise _waking()
        raise Unavailable("workspace has no URL", status=target.status)
    if target.url_source == UrlSource.PLATFORM:
        return Call(target.url, None, inbound_secret(target.pk))
    try:
        address = vetted_address(target.url, is_saas=is_saas())
    except BadRequest:
        raise BadGateway("workspace URL is not publicly routable") from None
    return Call(target.url, str(address), inbound_secret(target.pk))


def wake_sleeping(target: Workspace) -> bool:
    """Whether the workspace was asleep and is on its way now, whoever woke it."""
    return target.status == Status.HIBERNATED and wake(target.pk)


def _waking() -> Unavailable:
    return Unavailable(
        "workspace is waking from hibernation — retry in ~15 seconds",
        headers={"Retry-After": str(WAKING_S)},
        waking=True,
        retry_after=WAKING_S,
    )


@transaction.atomic
def complete(*, row: ActivityLog, answer: Any, error: DomainError | None, duration_ms: int) -> None:
    """Put the outcome into the row written at receipt, and tell the canvases.

    An earlier answer is never overwritten.
    """
    changed = complete_activity(
        row_id=row.pk,
        status="ok" if error is None else "error",
        response_body=answer if error is None else None,
        error_detail=error.text if error is not None else None,
        duration_ms=max(1, duration_ms),
        announce=True,
    )
    if changed is None or error is not None or changed.source_id is not None:
        return
    payload = {
        "response_body": answer,
        "method": changed.method,
        "duration_ms": changed.duration_ms,
        "message_id": changed.message_id,
    }
    broadcast(EventType.A2A_RESPONSE, changed.workspace_id, payload, timestamp=changed.created_at)
