"""The queue of messages whose target was busy. Source: docs/reference/a2a.md, The queue."""

from __future__ import annotations

from uuid import uuid4

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from a2a.callers import Caller, CallerKind


class QueueStatus(models.TextChoices):
    """The queue's own words; a delegation has others."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    COMPLETED = "completed"
    DROPPED = "dropped"
    FAILED = "failed"


ACTIVE = frozenset({QueueStatus.QUEUED, QueueStatus.DISPATCHED})
FINAL = frozenset(QueueStatus) - ACTIVE
NORMAL_PRIORITY = 50


class KeptKind(models.TextChoices):
    """The kinds of callers, as the table keeps them."""

    CANVAS = CallerKind.CANVAS.value
    WORKSPACE = CallerKind.WORKSPACE.value
    SYSTEM = CallerKind.SYSTEM.value


class QueueItem(models.Model):
    """One message that waits for its target, is being sent again, or was."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    caller_id = models.UUIDField(null=True)
    caller_kind = models.TextField(choices=KeptKind)
    caller_label = models.TextField(null=True)
    priority = models.SmallIntegerField(default=NORMAL_PRIORITY)
    body = models.JSONField()
    method = models.TextField(null=True)
    idempotency_key = models.TextField(null=True)
    status = models.TextField(choices=QueueStatus, default=QueueStatus.QUEUED)
    attempts = models.IntegerField(default=0)
    last_error = models.TextField(null=True)
    response_body = models.JSONField(null=True)
    delegation_id = models.TextField(null=True)  # set by the room of the delegations, never from a message
    enqueued_at = models.DateTimeField(db_default=Now())
    dispatched_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    next_attempt_at = models.DateTimeField(null=True)
    settling_since = models.DateTimeField(null=True)  # the first passing failure of this message
    lease_expires_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "a2a_queue"
        constraints = [
            models.CheckConstraint(name="a2a_queue_status", condition=Q(status__in=QueueStatus.values)),
            models.CheckConstraint(
                name="a2a_queue_caller_kind", condition=Q(caller_kind__in=KeptKind.values)
            ),
            models.CheckConstraint(name="a2a_queue_attempts", condition=Q(attempts__gte=0)),
            models.UniqueConstraint(
                fields=["workspace", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False, status__in=sorted(ACTIVE)),
                name="a2a_queue_active_uniq",
            ),
        ]
        indexes = [
            models.Index(
                F("workspace"),
                F("priority").desc(),
                F("enqueued_at"),
                F("id"),
                name="a2a_queue_claim",
                condition=Q(status="queued"),
            ),
            models.Index(
                "expires_at",
                name="a2a_queue_expiry",
                condition=Q(status="queued", expires_at__isnull=False),
            ),
            models.Index("lease_expires_at", name="a2a_queue_lease", condition=Q(status="dispatched")),
            models.Index(
                "workspace",
                "next_attempt_at",
                name="a2a_queue_backoff",
                condition=Q(status="queued", next_attempt_at__isnull=False),
            ),
            models.Index(
                "delegation_id", name="a2a_queue_delegation", condition=Q(delegation_id__isnull=False)
            ),
            models.Index("completed_at", name="a2a_queue_old", condition=Q(completed_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def caller(self) -> Caller:
        return Caller(CallerKind(self.caller_kind), self.caller_id, self.caller_label or "")
