"""Reads over the ledger: lists as agents and operators see them, and the whole texts behind the previews.

Source: docs/reference/delegations.md, Reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from django.db.models import Count, F, OuterRef, Q, QuerySet, Subquery, TextField
from django.db.models.functions import Cast, Coalesce

from activity.delegation_lines import DELEGATE, RESULT, lines_of
from delegations.models import IN_FLIGHT, Delegation, Delivery, Status
from delegations.previews import shortened
from workspaces.models import Workspace

SUMMARY_CHARS = 80
_WAITS = Q(delivery__in=[Delivery.QUEUE, Delivery.POLL])
# The words of lists: what each asks of the ledger.
SHOWN: dict[str, Q] = {
    "pending": Q(status=Status.QUEUED),
    "dispatched": Q(status=Status.DISPATCHED) & (Q(delivery=None) | ~_WAITS),
    "queued": Q(status=Status.DISPATCHED) & _WAITS,
    **{status.value: Q(status=status) for status in Status if status not in {"queued", "dispatched"}},
}
ADMIN_FILTERS: dict[str, Q] = {
    "in_flight": Q(status__in=IN_FLIGHT),
    "stuck": Q(status=Status.STUCK),
    "failed": Q(status=Status.FAILED),
    "completed": Q(status=Status.COMPLETED),
}
_DIRECTIONS = {
    "sent": lambda one: Q(caller_id=one),
    "received": lambda one: Q(callee_id=one),
    "all": lambda one: Q(caller_id=one) | Q(callee_id=one),
}
DIRECTIONS = tuple(_DIRECTIONS)


@dataclass(frozen=True)
class Texts:
    """The whole task and the whole outcome, None for what the feed no longer holds."""

    task: str | None
    outcome: str | None
    attachments: list[dict[str, Any]] = field(default_factory=list)  # of the task


def of_workspace(workspace_id: UUID, *, direction: str = "sent") -> QuerySet[Delegation]:
    """Newest first, with the callee's name as `callee_name`."""
    rows = Delegation.objects.filter(_DIRECTIONS[direction](workspace_id)).newest_first()
    return cast("QuerySet[Delegation]", _named(rows))


def _named(rows: QuerySet[Delegation]) -> Any:
    name = Workspace.objects.filter(pk=OuterRef("callee_id")).values("name")[:1]
    return rows.annotate(callee_name=Coalesce(Subquery(name), Cast(F("callee_id"), TextField())))


def entry(row: Any, reader: UUID) -> dict[str, Any]:
    """One element of `GET /workspaces/:id/delegations`, as `reader` sees it."""
    shown: dict[str, Any] = {
        "id": row.pk,
        "type": "delegation",
        "delegation_id": row.pk,
        "source_id": row.caller_id,
        "target_id": row.callee_id,
        "summary": _summary(row),
        "status": row.shown,
        "created_at": row.created_at,
        "direction": "sent" if row.caller_id == reader else "received",
        "ledger_status": row.status,
        "updated_at": row.updated_at,
        "deadline": row.deadline,
        "last_heartbeat": row.last_heartbeat,
    }
    if row.status == Status.COMPLETED:
        shown |= {
            "response_preview": row.result_preview or "",
            "response_truncated": row.result_is_cut,
        }
    if row.status in {Status.FAILED, Status.STUCK}:
        shown |= {"error": row.error_detail or "", "error_detail": row.error_detail or ""}
    return shown


def _summary(row: Any) -> str:
    if row.status == Status.COMPLETED:
        return f"Delegation completed ({shortened(row.result_preview or '', SUMMARY_CHARS)})"
    if row.status == Status.FAILED:
        return f"Delegation failed ({shortened(row.error_detail or '', SUMMARY_CHARS)})"
    return f"Delegating to {row.callee_name}"


def find(delegation_id: str, reader: UUID) -> Any:
    """The row with its `callee_name`, None unless the reader is its caller or its callee."""
    concerned = Q(caller_id=reader) | Q(callee_id=reader)
    return _named(Delegation.objects.filter(concerned, pk=delegation_id)).first()


def texts(row: Delegation) -> Texts:
    """From the delegator's feed, which keeps them whole."""
    bodies = {line.method: line for line in lines_of(row.caller_id, row.pk)}
    task, result = bodies.get(DELEGATE), bodies.get(RESULT)
    said = (result.response_body or {}) if result else {}
    asked = (task.request_body or {}) if task else {}
    return Texts(
        task=asked.get("task"),
        outcome=said.get("text", said.get("error")),
        attachments=asked.get("attachments") or [],
    )


def outcome_text(row: Delegation) -> str:
    """How it ended, as whole as it is known."""
    short = row.result_preview if row.status == Status.COMPLETED else row.error_detail
    return texts(row).outcome or short or ""


def by_status() -> dict[str, int]:
    """Every status, at 0 too."""
    counted = dict(Delegation.objects.values_list("status").annotate(Count("pk")))
    return {status.value: counted.get(status.value, 0) for status in Status}
