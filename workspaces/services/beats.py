"""A heartbeat's body: cleaned, clamped and judged, without a database. Source: docs/reference/registry.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from activity.redaction import storable
from config.errors import BadRequest
from workspaces.cards import is_too_large

ERROR_BYTES = 8192
TASK_BYTES = 4096
STATE_BYTES = 64
MAX_SPEND_CENTS = 1_000_000_000_000
MAX_INT = 2_147_483_647
CAPABILITIES = (
    "heartbeat",
    "scheduler",
    "session",
    "status_mgmt",
    "retry",
    "activity_decoration",
    "channel_dispatch",
)


@dataclass(frozen=True)
class Declared:
    """What a runtime says it does itself, and how long it may be silent while it works."""

    capabilities: Mapping[str, bool]
    idle_timeout_seconds: int | None


@dataclass(frozen=True)
class Beat:
    """One heartbeat, cleaned: an absent key is None and keeps what is stored."""

    active_tasks: int | None
    current_task: str | None
    uptime_seconds: int | None
    error_rate: float | None
    sample_error: str | None
    runtime_state: str
    monthly_spend: int | None
    declared: Declared | None
    clears_declared: bool
    agent_card: Mapping[str, Any] | None

    @property
    def is_task_push(self) -> bool:
        """A note about the current task only: uptime given as 0 and nothing else reported. It never
        degrades or recovers, and touches neither errors nor what was declared.
        """
        return (
            self.uptime_seconds == 0
            and not self.error_rate
            and not self.runtime_state
            and self.declared is None
        )


def beating_workspace(body: Mapping[str, Any]) -> UUID:
    """Raises BadRequest."""
    given = body.get("workspace_id") or body.get("id")
    try:
        return UUID(given if isinstance(given, str) else "")
    except ValueError:
        raise BadRequest("invalid request body") from None


def parse_beat(body: Mapping[str, Any]) -> Beat:
    """Raises BadRequest for a value of the wrong type; odd numbers are clamped, texts cut."""
    metadata = body.get("runtime_metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise BadRequest("invalid request body")
    return Beat(
        active_tasks=_integer(body, "active_tasks", highest=MAX_INT),
        current_task=_text(body, "current_task", TASK_BYTES),
        uptime_seconds=_integer(body, "uptime_seconds", highest=2**62),
        error_rate=_rate(body.get("error_rate")),
        sample_error=_text(body, "sample_error", ERROR_BYTES),
        runtime_state=_text(body, "runtime_state", STATE_BYTES) or "",
        monthly_spend=_integer(body, "monthly_spend", highest=MAX_SPEND_CENTS) or None,
        declared=_declared(metadata) if metadata else None,
        clears_declared="runtime_metadata" in body and not metadata,
        agent_card=_card(body.get("agent_card")),
    )


def _declared(metadata: Mapping[str, Any]) -> Declared:
    """What is not understood is left out: a newer runtime must still be able to beat."""
    given = metadata.get("capabilities")
    known = given if isinstance(given, Mapping) else {}
    timeout = metadata.get("idle_timeout_seconds")
    is_timeout = isinstance(timeout, int) and not isinstance(timeout, bool) and 0 < timeout <= MAX_INT
    return Declared(
        capabilities={key: known[key] for key in CAPABILITIES if isinstance(known.get(key), bool)},
        idle_timeout_seconds=timeout if is_timeout else None,
    )


def _card(given: Any) -> Mapping[str, Any] | None:
    if not isinstance(given, Mapping) or not given or is_too_large(given):
        return None
    return dict(storable(dict(given)))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest("invalid request body")
    return float(value)


def _integer(body: Mapping[str, Any], key: str, *, highest: int) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    number = _number(value)
    return max(0, min(int(number), highest)) if math.isfinite(number) else 0


def _rate(value: Any) -> float | None:
    if value is None:
        return None
    number = _number(value)
    return max(0.0, min(number, 1.0)) if math.isfinite(number) else 0.0


def _text(body: Mapping[str, Any], key: str, limit: int) -> str | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRequest("invalid request body")
    clean = str(storable(value.replace("\x00", "")))
    return clean.encode()[:limit].decode(errors="ignore")
