"""The verbs of the ledger; nothing else writes its table."""

from delegations.services.creation import Accepted, Task, delegate, record_delegation
from delegations.services.execution import dispatch
from delegations.services.operators import fail_delegation, nudge_delegation, requeue_delegation
from delegations.services.removal import close_of_removed, close_with_workspaces
from delegations.services.reports import beat, report_end, report_waiting
from delegations.services.sweeping import sweep
from delegations.services.transitions import (
    Change,
    Outcome,
    Result,
    hang_up,
    mark_waiting,
    tell_owed,
    transition,
)

__all__ = [
    "Accepted",
    "Change",
    "Outcome",
    "Result",
    "Task",
    "beat",
    "close_of_removed",
    "close_with_workspaces",
    "delegate",
    "dispatch",
    "fail_delegation",
    "hang_up",
    "mark_waiting",
    "nudge_delegation",
    "record_delegation",
    "report_end",
    "report_waiting",
    "requeue_delegation",
    "sweep",
    "tell_owed",
    "transition",
]
