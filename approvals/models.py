"""Questions an agent asks a person before it acts. Source: docs/reference/approvals.md."""

from __future__ import annotations

from typing import Self
from uuid import uuid4

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from config.states import StateMachine


class Status(models.TextChoices):
    """One enumeration drives the field, the CHECK, the table of moves and the tests."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    ESCALATED = "escalated"
    WITHDRAWN = "withdrawn"


STATES = StateMachine(
    {  # becomes: {from}
        Status.APPROVED: {Status.PENDING},
        Status.DENIED: {Status.PENDING},
        Status.WITHDRAWN: {Status.PENDING},
    },
    stamp="decided_at",
)


class ApprovalQuerySet(models.QuerySet["Approval"]):
    def pending(self) -> Self:
        """Undecided questions of workspaces that are still there."""
        return self.filter(status=Status.PENDING).exclude(workspace__status="removed")

    def newest_first(self) -> Self:
        return self.order_by("-created_at", "-id")


class Approval(models.Model):
    """One question. It stays pending until a person decides or the asker takes it back; it never expires."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    task_id = models.TextField(null=True)
    action = models.TextField()
    reason = models.TextField(null=True)
    context = models.JSONField(default=dict)
    status = models.TextField(choices=Status, default=Status.PENDING)
    decided_by = models.TextField(null=True)  # the name the client gives the person
    decided_actor = models.TextField(null=True)  # whose credential it was
    decided_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    objects = ApprovalQuerySet.as_manager()

    class Meta:
        db_table = "approval_requests"
        constraints = [
            models.CheckConstraint(name="approval_requests_status", condition=Q(status__in=Status.values)),
            models.CheckConstraint(
                name="approval_requests_decision_is_signed",
                condition=Q(status__in=["pending", "escalated"])
                | Q(decided_by__isnull=False, decided_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index("workspace", F("created_at").desc(), name="approval_requests_workspace"),
            models.Index(
                F("created_at").desc(), name="approval_requests_pending", condition=Q(status="pending")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.action[:80]} ({self.status})"
