"""What every event carries, as clients read it; and the check of what the product emits during any test.

The wire is a contract: a key that is renamed, dropped or added by accident fails the test that emitted it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activity import events
from activity.events import EventType, Frame

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs" / "reference" / "events.md"


@dataclass(frozen=True)
class Shape:
    """The keys that must be there and those that may be."""

    required: frozenset[str]
    optional: frozenset[str] = frozenset()

    def fits(self, keys: set[str]) -> bool:
        return self.required <= keys <= self.required | self.optional


def keys(required: str = "", optional: str = "") -> Shape:
    return Shape(frozenset(required.split()), frozenset(optional.split()))


_CRON = "schedule_id schedule_name"
_IMPORT = "name dir mode actor import_id"
_OUTCOME = "created_count skipped_count reconcile_removed_count reconcile_errors duration_ms create_error"

PAYLOADS: dict[EventType, tuple[Shape, ...]] = {
    EventType.WORKSPACE_PROVISIONING: (keys("name tier runtime", "parent_id x y source_bundle_id"),),
    EventType.WORKSPACE_PROVISION_FAILED: (
        keys("error", "source log_tail timeout_secs runtime missing instance_id"),
    ),
    EventType.WORKSPACE_RESTART_DECLINED: (keys("name runtime template error reason"),),
    EventType.WORKSPACE_PROVISION_PROGRESS: (
        keys("run_id generation step index total status message elapsed_ms"),
    ),
    EventType.WORKSPACE_ONLINE: (
        keys("url agent_card delivery_mode"),
        keys("name external"),
        keys("", "recovered_from"),
    ),
    EventType.WORKSPACE_OFFLINE: (keys(),),
    EventType.WORKSPACE_DEGRADED: (keys("error_rate sample_error"), keys("runtime_state sample_error")),
    EventType.WORKSPACE_HIBERNATED: (keys("name tier"),),
    EventType.WORKSPACE_PAUSED: (keys("name"),),
    EventType.WORKSPACE_AWAITING_AGENT: (keys("name external"), keys("external reason")),
    EventType.WORKSPACE_REMOVED: (keys("cascade_deleted"), keys()),
    EventType.WORKSPACE_MOVED: (keys("old_parent_id new_parent_id"),),
    EventType.WORKSPACE_HEARTBEAT: (keys("active_tasks uptime_seconds"),),
    EventType.TASK_UPDATED: (keys("current_task active_tasks"),),
    EventType.AGENT_CARD_UPDATED: (keys("agent_card"),),
    EventType.AGENT_ASSIGNED: (keys("agent_id model"),),
    EventType.AGENT_REPLACED: (keys("agent_id model old_model"),),
    EventType.AGENT_REMOVED: (keys("agent_id model"),),
    EventType.AGENT_MOVED: (
        keys("agent_id model target_workspace_id"),
        keys("agent_id model source_workspace_id"),
    ),
    EventType.AGENT_MESSAGE: (keys("message workspace_id name", "attachments"),),
    EventType.A2A_RESPONSE: (keys("response_body method duration_ms message_id"),),
    EventType.ACTIVITY_LOGGED: (
        keys(
            "id seq created_at activity_type method summary status source_id target_id duration_ms",
            "tool_trace request_body response_body error_detail",
        ),
    ),
    EventType.CHANNEL_MESSAGE: (keys("channel_id channel_type direction", "username"),),
    EventType.DELEGATION_SENT: (keys("delegation_id target_id task_preview"),),
    EventType.DELEGATION_STATUS: (keys("delegation_id target_id status"),),
    EventType.DELEGATION_COMPLETE: (keys("delegation_id target_id response_preview", "via"),),
    EventType.DELEGATION_FAILED: (keys("delegation_id target_id error", "via"),),
    EventType.CRON_EXECUTED: (keys(f"{_CRON} status"),),
    EventType.CRON_SKIPPED: (keys(f"{_CRON} reason"),),
    EventType.CRON_QUEUED: (keys(_CRON),),
    EventType.APPROVAL_REQUESTED: (keys("approval_id action reason task_id"),),
    EventType.APPROVAL_ESCALATED: (keys("approval_id from_workspace_id action reason"),),
    EventType.APPROVAL_APPROVED: (keys("approval_id decision decided_by"),),
    EventType.APPROVAL_DENIED: (keys("approval_id decision decided_by"),),
    EventType.APPROVAL_DECIDED: (keys("approval_id status decided_by"),),
    EventType.APPROVAL_WITHDRAWN: (keys("approval_id decided_by"),),
    EventType.EXTERNAL_CREDENTIALS_ROTATED: (keys("workspace_id"),),
    EventType.ORG_IMPORT_STARTED: (keys(_IMPORT),),
    EventType.ORG_IMPORT_COMPLETED: (keys(f"{_IMPORT} {_OUTCOME}"),),
    EventType.ORG_IMPORT_FAILED: (keys(_IMPORT, "error"),),
}


def documented() -> dict[str, tuple[str, str]]:
    """name -> (mode, peers), as the reference page says."""
    rows = re.findall(r"^\| `([A-Za-z0-9_.]+)` \| (\w+) \| (yes|no) \|", PAGE.read_text(), re.MULTILINE)
    return {name: (mode, peers) for name, mode, peers in rows}


def complaint(event: str, payload: dict[str, Any], mode: str) -> str | None:
    """What is wrong with an event emitted in this mode, or None."""
    if event not in set(EventType):
        return f"{event!r} is no event"
    wanted = documented()[event][0]
    if mode != wanted:
        return f"{event} is {wanted}, and was {mode}"
    if not any(shape.fits(set(payload)) for shape in PAYLOADS[EventType(event)]):
        return f"{event} does not carry {sorted(payload)}"
    return None


@contextmanager
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every event that code of the product (and no test) emits inside the block, held against the table."""
    wrong: list[str] = []
    plain_frame, plain_row = Frame.__init__, events.unstored

    def note(event: str, payload: dict[str, Any], mode: str) -> None:
        if _by_the_product() and (found := complaint(event, payload, mode)):
            wrong.append(found)

    def frame(self: Frame, *given: Any, **named: Any) -> None:
        plain_frame(self, *given, **named)
        if sys._getframe(1).f_code is not events.publish_recorded.__code__:
            note(self.event, dict(self.payload), "broadcast")

    def unstored(event: Any, workspace_id: Any, payload: Any) -> Any:
        note(event, dict(payload), "recorded" if workspace_id else "logged")
        return plain_row(event, workspace_id, payload)

    monkeypatch.setattr(Frame, "__init__", frame)
    monkeypatch.setattr(events, "unstored", unstored)
    yield wrong


def _by_the_product() -> bool:
    """Whether the nearest caller outside the machinery is a file of the product."""
    caller: Any = sys._getframe(1)
    while caller is not None and caller.f_code.co_filename in {__file__, events.__file__}:
        caller = caller.f_back
    path = Path(caller.f_code.co_filename) if caller else Path("/")
    return path.is_relative_to(PROJECT) and path.relative_to(PROJECT).parts[0] not in {"tests", ".venv"}
