"""Whether the compute of a workspace still runs, asked by whoever could not talk to its agent.

Source: docs/reference/provisioning.md, When an agent does not answer.
"""

from __future__ import annotations

import time
from datetime import timedelta
from enum import StrEnum

import structlog
from django.utils import timezone

from config.locks import outside_transaction
from provisioning import dispatch
from provisioning.backends.base import BackendError, ComputeState
from provisioning.services.restarts import Trigger, request_restart
from workspaces.models import Workspace
from workspaces.services import transitions

log = structlog.get_logger(__name__)

CALLED = timedelta(seconds=15)  # a heartbeat this young contradicts one "not running"
CONFIRM_S = 0.5


class Standing(StrEnum):
    RUNNING = "running"
    UNSURE = "unsure"  # no compute of ours, no backend, or nobody can tell
    DOUBTFUL = "doubtful"  # not running, and its agent called a moment ago
    GONE = "gone"


def standing_of(row: Workspace) -> Standing:
    """What the backend knows. One that fails to answer is taken for a sign of life: nothing is recycled."""
    outside_transaction()
    if not row.is_managed or not dispatch.has_provisioner():
        return Standing.UNSURE
    state = _state(row)
    if state in {ComputeState.RUNNING, ComputeState.STARTING}:
        return Standing.RUNNING
    if state == ComputeState.UNKNOWN:
        return Standing.UNSURE
    if row.last_heartbeat_at is None or row.last_heartbeat_at < timezone.now() - CALLED:
        return Standing.GONE
    time.sleep(CONFIRM_S)
    return Standing.DOUBTFUL if _state(row) == ComputeState.NOT_RUNNING else Standing.RUNNING


def _state(row: Workspace) -> ComputeState:
    try:
        return dispatch.status(row.pk)
    except BackendError as error:
        log.warning("standing.unknown", workspace_id=str(row.pk), error=str(error))
        return ComputeState.RUNNING


def lose(row: Workspace, *, reason: str) -> bool:
    """Mark a workspace whose compute is gone and ask for its restart; False when somebody was first."""
    if not transitions.mark_lost(Workspace.objects.at(row.pk, row.generation)):
        return False
    request_restart(row.pk, Trigger.REACTIVE, reason)
    return True
