"""What the answer of an agent means for its schedule. Pure.

Source: docs/reference/schedules.md, Outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from a2a.answers import spoken_text
from a2a.results import ANSWERS, Kind, Result

OK, QUEUED, SKIPPED, ERROR, STALE, RPC_ERROR = "ok", "queued", "skipped", "error", "stale", "rpc_error"
NOTHING_SAID = frozenset({"", "(no response generated)"})
MOST_EMPTY = 3  # answers without a word in a row, from which on the schedule is stale
STATUS_CHARS = 32
_GOOD_KINDS = frozenset({"ok", "message", "task"})
_BAD_STATES = frozenset({"failed", "canceled", "rejected"})


class Effect(Enum):
    """What a run does to the counters of its schedule."""

    NONE = "none"
    GOOD = "good"
    EMPTY = "empty"
    REFUSED = "refused"


@dataclass(frozen=True)
class Outcome:
    status: str
    effect: Effect = Effect.NONE
    error: str = ""
    text: str = ""


def outcome_of(result: Result) -> Outcome:
    """What became of a run whose message was sent."""
    match result.kind:
        case Kind.QUEUED_BUSY:
            return Outcome(QUEUED)
        case Kind.QUEUED_POLL:  # in the inbox: what the agent makes of it is not told
            return Outcome(OK, Effect.GOOD)
        case Kind.RPC_ERROR:
            return Outcome(RPC_ERROR, Effect.REFUSED, error=result.error)
    if result.kind in ANSWERS:
        return _answered(result)
    return Outcome(ERROR, error=result.error or f"the message was not taken: {result.kind}")


def _answered(result: Result) -> Outcome:
    body: Mapping[str, Any] = result.body
    told = body.get("result")
    text = told.strip() if isinstance(told, str) else spoken_text(told).strip()
    if complaint := _complaint(body, told):
        return Outcome(complaint[:STATUS_CHARS], Effect.REFUSED, error=text or f"the agent says {complaint}")
    if result.kind == Kind.TASK_OPEN:  # at work: it may speak later
        return Outcome(OK, Effect.GOOD, text=text)
    if text in NOTHING_SAID:
        return Outcome(OK, Effect.EMPTY)
    return Outcome(OK, Effect.GOOD, text=text)


def _complaint(body: Mapping[str, Any], told: Any) -> str:
    """What the agent calls its own answer when that is none; '' for a healthy one."""
    inner = told if isinstance(told, Mapping) else {}
    for kind in (inner.get("kind"), inner.get("result_kind"), body.get("result_kind")):
        if isinstance(kind, str) and kind and kind not in _GOOD_KINDS:
            return kind
    status = inner.get("status")
    state = status.get("state") if isinstance(status, Mapping) else None
    return state if isinstance(state, str) and state in _BAD_STATES else ""
