"""Who sends a message: typed, so that nobody compares label texts. Source: docs/reference/a2a.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class CallerKind(StrEnum):
    CANVAS = "canvas"  # a person, or a program with an operator's credential
    WORKSPACE = "workspace"
    SYSTEM = "system"  # the server itself: a webhook, a schedule, a notice of a restart


@dataclass(frozen=True)
class Caller:
    """`id` of a workspace only; `label` of the system only, such as `webhook:github`."""

    kind: CallerKind
    id: UUID | None = None
    label: str = ""


CANVAS = Caller(CallerKind.CANVAS)


def workspace_caller(workspace_id: UUID) -> Caller:
    return Caller(CallerKind.WORKSPACE, workspace_id)


def system_caller(label: str) -> Caller:
    return Caller(CallerKind.SYSTEM, label=label)
