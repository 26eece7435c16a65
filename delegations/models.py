"""The ledger of work handed over: one row per delegation is the truth about it.

Source: docs/reference/delegations.md.
"""

from __future__ import annotations

from typing import Self
from uuid import UUID, uuid4

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now


class Status(models.TextChoices):
    """`stuck` is a warning, not an end: the callee fell silent, and its answer may still come."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    IN_PROGRESS = "in_progress"
    STUCK = "stuck"
    COMPLETED = "completed"
    FAILED = "failed"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED})
IN_FLIGHT = frozenset(Status) - TERMINAL

MOVES: dict[Status, frozenset[Status]] = {  # becomes: {from}
    Status.QUEUED: frozenset(),
    Status.DISPATCHED: frozenset({Status.QUEUED}),
    Status.IN_PROGRESS: frozenset({Status.QUEUED, Status.DISPATCHED, Status.STUCK}),
    Status.STUCK: frozenset({Status.QUEUED, Status.DISPATCHED, Status.IN_PROGRESS}),
    Status.COMPLETED: IN_FLIGHT,
    Status.FAILED: IN_FLIGHT,
}


class Source(models.TextChoices):
    """Who asked, and how."""

    API = "api"
    RECORD = "record"  # the agent sent the task itself, and tells
    MCP_SYNC = "mcp_sync"
    MCP_ASYNC = "mcp_async"


class Delivery(models.TextChoices):
    """Where the message is: on its way, in the queue of a busy callee, or in the inbox of a polling one."""

    DIRECT = "direct"
    QUEUE = "queue"
    POLL = "poll"


def new_id() -> str:
    return str(uuid4())


_OPEN = Q(status__in=sorted(IN_FLIGHT))
# Partial indexes whose predicate is IN_FLIGHT; a test compares both.
IN_FLIGHT_INDEXES = (
    "delegations_heartbeat",
    "delegations_deadline",
    "delegations_awaited",
    "delegations_worked_on",
)


class DelegationQuerySet(models.QuerySet["Delegation"]):
    def in_flight(self) -> Self:
        return self.filter(status__in=IN_FLIGHT)

    def newest_first(self) -> Self:
        return self.order_by("-created_at", "-delegation_id")


class Delegation(models.Model):
    """One task that one workspace gave to another. No foreign keys: history outlives workspaces."""

    delegation_id = models.TextField(primary_key=True, default=new_id)
    caller_id = models.UUIDField()
    callee_id = models.UUIDField()
    task_preview = models.TextField()  # at most 4096 bytes, as the two below
    status = models.TextField(choices=Status, default=Status.QUEUED)
    last_heartbeat = models.DateTimeField(null=True)
    deadline = models.DateTimeField()
    result_preview = models.TextField(null=True)
    result_is_cut = models.BooleanField(default=False)  # the whole text is in the delegator's feed
    error_detail = models.TextField(null=True)
    retry_count = models.IntegerField(default=0)
    idempotency_key = models.TextField(null=True)
    source = models.TextField(choices=Source, default=Source.API)
    delivery = models.TextField(choices=Delivery, null=True)
    queue_id = models.UUIDField(null=True)
    dispatched_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    notified_at = models.DateTimeField(null=True)  # when the delegator was told how it ended
    inline_until = models.DateTimeField(null=True)  # until then it waits on the line, and is told there
    lease_expires_at = models.DateTimeField(null=True)  # of the worker that waits for the callee
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    objects = DelegationQuerySet.as_manager()

    class Meta:
        db_table = "delegations"
        constraints = [
            models.CheckConstraint(name="delegations_status", condition=Q(status__in=Status.values)),
            models.CheckConstraint(name="delegations_source", condition=Q(source__in=Source.values)),
            models.CheckConstraint(
                name="delegations_delivery", condition=Q(delivery=None) | Q(delivery__in=Delivery.values)
            ),
            models.CheckConstraint(
                name="delegations_finished", condition=_OPEN | Q(finished_at__isnull=False)
            ),
            models.UniqueConstraint(
                fields=["caller_id", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="delegations_idempotency_uniq",
            ),
        ]
        indexes = [
            models.Index(
                F("last_heartbeat").asc(nulls_first=True), name="delegations_heartbeat", condition=_OPEN
            ),
            models.Index("deadline", name="delegations_deadline", condition=_OPEN),
            models.Index("caller_id", F("created_at").desc(), name="delegations_sent"),
            models.Index("callee_id", F("created_at").desc(), name="delegations_received"),
            models.Index("caller_id", "created_at", name="delegations_awaited", condition=_OPEN),
            models.Index("callee_id", name="delegations_worked_on", condition=_OPEN),
            models.Index("status", F("created_at").desc(), name="delegations_by_status"),
            # Ended while the delegator waited on the line, which did not confirm that it was told.
            models.Index(
                "inline_until",
                name="delegations_owed",
                condition=Q(inline_until__isnull=False, notified_at=None),
            ),
            models.Index("finished_at", name="delegations_old", condition=Q(finished_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.delegation_id

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def shown(self) -> str:
        """The word of lists and of the task's line in the feed."""
        if self.status == Status.QUEUED:
            return "pending"
        if self.status == Status.DISPATCHED and self.delivery in {Delivery.QUEUE, Delivery.POLL}:
            return "queued"
        return str(self.status)

    def concerns(self, workspace_id: UUID) -> bool:
        return workspace_id in {self.caller_id, self.callee_id}
