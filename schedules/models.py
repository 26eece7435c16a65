"""Prompts that an agent gets at set times. Source: docs/reference/schedules.md."""

from __future__ import annotations

from typing import Self
from uuid import UUID, uuid4

from django.db import models
from django.db.models import ExpressionWrapper, Q
from django.db.models.functions import Now

NAME_UNIQUE = "workspace_schedules_name_uniq"
RUN_TYPE = "cron_run"  # the lines of runs in the feed of a workspace


class Source(models.TextChoices):
    """Who made it: an org template, which may refresh it, or somebody at work, whose it stays."""

    TEMPLATE = "template"
    RUNTIME = "runtime"


class ScheduleQuerySet(models.QuerySet["Schedule"]):
    def of(self, workspace_id: UUID, schedule_id: UUID) -> Self:
        """One schedule: an id alone names nothing."""
        return self.filter(pk=schedule_id, workspace_id=workspace_id)

    def in_flight(self) -> Self:
        """Claimed, or being fired; `is_abandoned` says whether the lease is over by the database's clock."""
        expired = ExpressionWrapper(Q(lease_expires_at__lte=Now()), models.BooleanField(null=True))
        return self.filter(slot__isnull=False).annotate(is_abandoned=expired)

    def waiting(self) -> Self:
        """Claimed, and no worker has begun."""
        return self.filter(slot__isnull=False, lease_expires_at__isnull=True)


class Schedule(models.Model):
    """A prompt with its times. While a run is claimed, `slot` is the time it was due; while a worker fires
    it, it holds a lease besides.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    name = models.TextField(default="", db_default="")
    cron_expr = models.TextField()
    prompt = models.TextField()
    timezone = models.TextField(default="UTC", db_default="UTC")
    enabled = models.BooleanField(default=True, db_default=True)
    last_run_at = models.DateTimeField(null=True)
    next_run_at = models.DateTimeField(null=True)
    run_count = models.IntegerField(default=0, db_default=0)
    last_status = models.TextField(default="", db_default="")
    last_error = models.TextField(default="", db_default="")
    source = models.TextField(choices=Source, default=Source.RUNTIME, db_default=Source.RUNTIME.value)
    consecutive_empty_runs = models.IntegerField(default=0, db_default=0)
    consecutive_sdk_errors = models.IntegerField(default=0, db_default=0)
    consecutive_slot_errors = models.IntegerField(default=0, db_default=0)  # its next time has no answer
    slot = models.DateTimeField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    stopped_by_removal = models.BooleanField(default=False, db_default=False)  # ran until its workspace went
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    is_abandoned: bool | None  # set by in_flight()
    objects = ScheduleQuerySet.as_manager()

    class Meta:
        db_table = "workspace_schedules"
        constraints = [
            models.CheckConstraint(name="workspace_schedules_source", condition=Q(source__in=Source.values)),
            models.CheckConstraint(
                name="workspace_schedules_counts",
                condition=Q(
                    run_count__gte=0,
                    consecutive_empty_runs__gte=0,
                    consecutive_sdk_errors__gte=0,
                    consecutive_slot_errors__gte=0,
                ),
            ),
            models.CheckConstraint(
                name="workspace_schedules_lease_has_slot",
                condition=Q(lease_expires_at__isnull=True) | Q(slot__isnull=False),
            ),
            models.CheckConstraint(
                name="workspace_schedules_stopped_is_off",
                condition=Q(stopped_by_removal=False) | Q(enabled=False),
            ),
            # Any number of schedules without a name.
            models.UniqueConstraint(fields=["workspace", "name"], condition=~Q(name=""), name=NAME_UNIQUE),
        ]
        indexes = [
            models.Index(
                "next_run_at",
                name="workspace_schedules_due",
                condition=Q(enabled=True, next_run_at__isnull=False),
            ),
            models.Index(
                "id", name="workspace_schedules_no_next", condition=Q(enabled=True, next_run_at__isnull=True)
            ),
            models.Index("slot", name="workspace_schedules_flight", condition=Q(slot__isnull=False)),
            models.Index("workspace", name="workspace_schedules_workspace"),
        ]

    def __str__(self) -> str:
        return self.name or str(self.pk)
