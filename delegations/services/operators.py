"""What an operator does with a delegation that does not end by itself.

Source: docs/reference/delegations.md, Operators.
"""

from __future__ import annotations

import structlog

from config.errors import Conflict, NotFound
from delegations.models import Delegation, Status
from delegations.services.transitions import Change, transition

log = structlog.get_logger(__name__)


def fail_delegation(*, delegation_id: str, reason: str, actor: str) -> Delegation:
    """End it; the caller is told once. Raises NotFound, Conflict (it has ended)."""
    why = f"resolved by operator: {reason}" if reason else "resolved by operator"
    result = transition(delegation_id, Change(Status.FAILED, error=why, via="operator"))
    if result.row is None:
        raise NotFound("delegation not found")
    if not result.moved:
        raise Conflict("delegation is terminal", status=result.row.status)
    log.info("delegation.resolved", delegation_id=delegation_id, action="fail", actor=actor)
    return result.row
