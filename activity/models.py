"""What happened: the activity log with its inbox, structure events, ticks of background jobs,
shared counters.
"""

from __future__ import annotations

from typing import Self
from uuid import uuid4

from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.fields.json import KT
from django.db.models.functions import Now


def next_value(sequence: str) -> Func:
    """The database default `nextval('<sequence>')`:
    identity columns are reserved for primary keys in Django.
    """
    return Func(Value(sequence), function="nextval", output_field=models.BigIntegerField())


class StructureEvent(models.Model):
    """One recorded event of the org tree. Append-only; outlives its workspace, hence no foreign key."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    seq = models.BigIntegerField(unique=True, editable=False, db_default=next_value("structure_events_seq"))
    event_type = models.TextField()
    workspace_id = models.UUIDField(null=True)
    agent_id = models.UUIDField(null=True)
    target_id = models.UUIDField(null=True)
    payload = models.JSONField(default=dict)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "structure_events"
        indexes = [
            models.Index(
                "workspace_id", F("created_at").desc(), F("seq").desc(), name="structure_events_workspace"
            ),
            models.Index(F("created_at").desc(), F("seq").desc(), name="structure_events_recent"),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.workspace_id}"


class ActivityQuerySet(models.QuerySet["ActivityLog"]):
    def newest_first(self) -> Self:
        return self.order_by("-created_at", "-seq")


class ActivityLog(models.Model):
    """One line of a workspace's feed.

    `seq` orders it; per workspace the order of `seq` is the order of commit.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    seq = models.BigIntegerField(unique=True, editable=False, db_default=next_value("activity_logs_seq"))
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    activity_type = models.TextField()
    source_id = models.UUIDField(null=True)  # null: the canvas user, the server or a system caller
    target_id = models.UUIDField(null=True)
    method = models.TextField(null=True)
    summary = models.TextField(null=True)
    request_body = models.JSONField(null=True)
    response_body = models.JSONField(null=True)
    tool_trace = models.JSONField(null=True)
    duration_ms = models.IntegerField(null=True)
    status = models.CharField(max_length=32, default="ok")
    error_detail = models.TextField(null=True)
    idempotency_key = models.TextField(null=True)
    message_id = models.TextField(null=True)
    created_at = models.DateTimeField()
    objects = ActivityQuerySet.as_manager()

    class Meta:
        db_table = "activity_logs"
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "message_id"],
                condition=Q(message_id__isnull=False),
                name="activity_logs_message_uniq",
            ),
            models.UniqueConstraint(
                fields=["workspace", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="activity_logs_idempotency_uniq",
            ),
            # One result per delegation and kind of row: the delegator's line, and its copy in the inbox.
            models.UniqueConstraint(
                F("workspace"),
                KT("request_body__delegation_id"),
                F("activity_type"),
                condition=Q(method="delegate_result"),
                name="activity_logs_result_uniq",
            ),
        ]
        indexes = [
            models.Index("workspace", "seq", name="activity_logs_feed"),
            models.Index("workspace", F("created_at").desc(), F("seq").desc(), name="activity_logs_recent"),
            models.Index(
                "workspace",
                "activity_type",
                F("created_at").desc(),
                F("seq").desc(),
                name="activity_logs_typed",
            ),
            models.Index(
                "workspace", "source_id", name="activity_logs_source", condition=Q(source_id__isnull=False)
            ),
            models.Index(
                "workspace", "target_id", name="activity_logs_target", condition=Q(target_id__isnull=False)
            ),
            models.Index("created_at", name="activity_logs_retention"),
            models.Index("created_at", name="activity_logs_pending", condition=Q(status="pending")),
            models.Index(
                "workspace", "seq", name="activity_logs_inbox", condition=Q(activity_type="a2a_receive")
            ),
            GinIndex(
                fields=["tool_trace"], name="activity_logs_tool_trace", condition=Q(tool_trace__isnull=False)
            ),
            models.Index(
                F("workspace"),
                KT("request_body__delegation_id"),
                name="activity_logs_delegation",
                condition=Q(method__in=["delegate", "delegate_result"]),
            ),
            models.Index(
                F("workspace"),
                KT("request_body__schedule_id"),
                F("created_at").desc(),
                F("seq").desc(),
                name="activity_logs_schedule",
                condition=Q(activity_type="cron_run"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.activity_type} {self.seq}"


class InboxDeliveryState(models.Model):
    """How far a workspace has consumed its inbox; only ever rises."""

    workspace = models.OneToOneField(
        "workspaces.Workspace", models.CASCADE, primary_key=True, related_name="+"
    )
    last_acked_seq = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "inbox_delivery_state"


class BackgroundJob(models.Model):
    """The last ticks of one background job, loop or queue, written by whichever process ran it.

    A long run ticks while it lasts; `last_started_at` alone decides whose turn the next run is.
    """

    name = models.TextField(primary_key=True)
    last_tick_at = models.DateTimeField(null=True)
    last_started_at = models.DateTimeField(null=True)
    last_success_at = models.DateTimeField(null=True)
    last_error = models.TextField(null=True)
    last_duration_ms = models.IntegerField(null=True)
    runs = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0)

    class Meta:
        db_table = "background_jobs"

    def __str__(self) -> str:
        return self.name


class MetricCounter(models.Model):
    """One counter series shared by all processes; `labels` is the Prometheus text between the braces."""

    pk = models.CompositePrimaryKey("name", "labels")
    name = models.TextField()
    labels = models.TextField(default="")
    value = models.BigIntegerField(default=0)

    class Meta:
        db_table = "metric_counters"
