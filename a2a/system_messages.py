"""Messages of the server's own: no workspace or person sent them, and nobody waits for their answer.

Source: docs/reference/a2a.md, Messages of the server.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from a2a.callers import system_caller
from a2a.dispatch import Terms, proxy_a2a
from a2a.results import ANSWERS, Delivered, Kind
from config.errors import DomainError

TURN_S = 60.0  # a worker waits for the agent: what it thinks longer about goes on without us
_TAKEN = ANSWERS | {Kind.QUEUED_POLL, Kind.LOST_RESPONSE}


class NotTold(DomainError):
    """The agent does not have the message; the status is what an HTTP caller would have been told."""


def tell(*, target_id: UUID, caller: str, envelope: dict[str, Any]) -> None:
    """Put a message of `caller` (`system:<name>`) before an agent, once per `messageId`.

    Returns once the agent has it: in its inbox, answered, or still thinking after TURN_S. Raises NotTold.
    """
    result = proxy_a2a(target_id, envelope, system_caller(caller), Terms(total_s=TURN_S, queues=False))
    has_it = result.kind in _TAKEN or (result.timed_out and result.delivered == Delivered.UNKNOWN)
    if has_it:
        return
    error = NotTold(result.error or f"not taken: {result.kind}")
    error.status = result.http_status  # type: ignore[misc]
    raise error
