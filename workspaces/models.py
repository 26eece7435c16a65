"""The org tree: workspaces, their place on the canvas, and the one table of their states.

Source: docs/reference/workspaces.md.
"""

from __future__ import annotations

from typing import Self
from uuid import UUID, uuid4

from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce, Now

from config.states import StateMachine

EXTERNAL = "external"  # the runtime whose compute is somebody else's
NAME_UNIQUE = "workspaces_parent_name_uniq"
VIEWPORT_ID = UUID("00000000-0000-0000-0000-000000000001")


class Status(models.TextChoices):
    """One enumeration drives the field, the CHECK, the table of moves and the tests."""

    PROVISIONING = "provisioning"
    ONLINE = "online"
    DEGRADED = "degraded"
    OFFLINE = "offline"
    FAILED = "failed"
    PAUSED = "paused"
    HIBERNATING = "hibernating"
    HIBERNATED = "hibernated"
    AWAITING_AGENT = "awaiting_agent"
    REMOVED = "removed"


DORMANT = frozenset({Status.PAUSED, Status.HIBERNATING, Status.HIBERNATED})
PARKED = DORMANT | {Status.REMOVED}  # inviolable to agents and sweeps
ALIVE = frozenset({Status.ONLINE, Status.DEGRADED})
LIVE = frozenset(Status) - {Status.REMOVED}

# Some sources are there to undo a claim: a park whose stop failed, a restart that was called off while the
# old compute still served. docs/reference/workspaces.md names the cause of each move.
STATES = StateMachine(
    {  # becomes: {from}
        Status.PROVISIONING: LIVE,
        Status.ONLINE: {
            Status.PROVISIONING,
            Status.ONLINE,
            Status.DEGRADED,
            Status.OFFLINE,
            Status.FAILED,
            Status.AWAITING_AGENT,
            Status.PAUSED,
            Status.HIBERNATING,
        },
        Status.DEGRADED: {Status.ONLINE, Status.PROVISIONING, Status.PAUSED, Status.HIBERNATING},
        Status.OFFLINE: {Status.ONLINE, Status.DEGRADED, Status.PROVISIONING, Status.PAUSED},
        Status.FAILED: {Status.PROVISIONING, Status.OFFLINE, Status.PAUSED},
        Status.AWAITING_AGENT: {Status.ONLINE, Status.DEGRADED, Status.PAUSED},
        Status.PAUSED: LIVE - {Status.PAUSED},
        Status.HIBERNATING: ALIVE | {Status.PAUSED},
        Status.HIBERNATED: {Status.HIBERNATING, Status.PAUSED},
        Status.REMOVED: LIVE,
    }
)


class DeliveryMode(models.TextChoices):
    PUSH = "push"
    POLL = "poll"


class UrlSource(models.TextChoices):
    """`platform`: written by the server itself; a register never overwrites it."""

    AGENT = "agent"
    PLATFORM = "platform"


class Access(models.TextChoices):
    """How a workspace sees the host folder `workspace_dir`."""

    NONE = "none"
    READ_ONLY = "read_only"
    READ_WRITE = "read_write"


class WorkspaceQuerySet(models.QuerySet["Workspace"]):
    def live(self) -> Self:
        return self.exclude(status=Status.REMOVED)

    def managed(self) -> Self:
        """With compute of ours: started, stopped and restarted by the server."""
        return self.exclude(runtime=EXTERNAL)

    def at(self, workspace_id: UUID, generation: int) -> Self:
        """The row, unless somebody newer owns it: the fence of every write made after slow work."""
        return self.filter(pk=workspace_id, generation=generation)


class Workspace(models.Model):
    """A role in the org tree, run as a container, an instance, a process, or by someone else."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    name = models.TextField()
    role = models.TextField(null=True)
    tier = models.IntegerField()
    status = models.TextField(choices=Status, default=Status.PROVISIONING)
    runtime = models.TextField(default="langgraph")
    template = models.TextField(null=True)
    parent = models.ForeignKey("self", models.DO_NOTHING, null=True, related_name="children", db_index=False)
    forwarded_to = models.ForeignKey("self", models.DO_NOTHING, null=True, related_name="+", db_index=False)
    source_bundle_id = models.TextField(null=True)
    agent_card = models.JSONField(null=True)
    url = models.TextField(null=True)
    url_source = models.TextField(choices=UrlSource, default=UrlSource.AGENT)
    delivery_mode = models.TextField(choices=DeliveryMode, default=DeliveryMode.PUSH)
    delivery_mode_explicit = models.BooleanField(default=False)
    awareness_namespace = models.TextField(null=True)
    workspace_dir = models.TextField(null=True)
    workspace_access = models.CharField(max_length=20, choices=Access, default=Access.NONE)
    last_heartbeat_at = models.DateTimeField(null=True)
    last_error_rate = models.FloatField(default=0)
    last_sample_error = models.TextField(null=True)
    active_tasks = models.IntegerField(default=0)
    max_concurrent_tasks = models.IntegerField(default=1)
    current_task = models.TextField(null=True)
    uptime_seconds = models.BigIntegerField(default=0)
    budget_limit = models.BigIntegerField(null=True)  # USD cents per month
    monthly_spend = models.BigIntegerField(default=0)  # USD cents, reported by the agent
    spend_month = models.DateField(null=True)
    hibernation_idle_minutes = models.IntegerField(null=True)
    idle_since = models.DateTimeField(null=True)
    last_outbound_at = models.DateTimeField(null=True)
    platform_inbound_secret = models.TextField(null=True)  # sealed by access.ciphers; never in a serializer
    instance_id = models.TextField(null=True)
    runtime_image_digest = models.TextField(null=True)
    generation = models.BigIntegerField(default=0)
    provision_deadline_at = models.DateTimeField(null=True)
    import_template = models.TextField(null=True)
    import_key = models.TextField(null=True)
    cleanup_pending = models.BooleanField(default=False)
    storage_kept = models.BooleanField(default=False, db_default=False)  # of a removed one: until its purge
    status_changed_at = models.DateTimeField(db_default=Now())
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    objects = WorkspaceQuerySet.as_manager()

    class Meta:
        db_table = "workspaces"
        constraints = [
            models.CheckConstraint(name="workspaces_status", condition=Q(status__in=Status.values)),
            models.CheckConstraint(name="workspaces_tier", condition=Q(tier__range=(1, 4))),
            models.CheckConstraint(
                name="workspaces_delivery_mode", condition=Q(delivery_mode__in=DeliveryMode.values)
            ),
            models.CheckConstraint(
                name="workspaces_url_source", condition=Q(url_source__in=UrlSource.values)
            ),
            models.CheckConstraint(name="workspaces_access", condition=Q(workspace_access__in=Access.values)),
            models.CheckConstraint(
                name="workspaces_not_own_parent", condition=Q(parent=None) | ~Q(parent=models.F("id"))
            ),
            models.CheckConstraint(name="workspaces_active_tasks", condition=Q(active_tasks__gte=0)),
            models.CheckConstraint(name="workspaces_max_tasks", condition=Q(max_concurrent_tasks__gte=1)),
            models.CheckConstraint(
                name="workspaces_budget", condition=Q(budget_limit=None) | Q(budget_limit__gte=0)
            ),
            models.CheckConstraint(
                name="workspaces_failed_has_reason",
                condition=~Q(status="failed")
                | (Q(last_sample_error__isnull=False) & ~Q(last_sample_error="")),
            ),
            models.CheckConstraint(
                name="workspaces_only_removed_keep_storage",
                condition=Q(storage_kept=False) | Q(status="removed"),
            ),
            models.UniqueConstraint(
                fields=["parent", "name"],
                condition=~Q(status="removed"),
                nulls_distinct=False,
                name=NAME_UNIQUE,
            ),
            models.UniqueConstraint(
                fields=["instance_id"],
                condition=Q(instance_id__isnull=False),
                name="idx_workspaces_instance_id",
            ),
        ]
        indexes = [
            models.Index("parent", name="idx_workspaces_parent_id"),
            models.Index("status", name="idx_workspaces_status"),
            models.Index(
                "created_at", "id", name="idx_workspaces_live_created", condition=~Q(status="removed")
            ),
            models.Index(
                "last_heartbeat_at",
                name="idx_workspaces_heartbeat",
                condition=Q(status__in=["online", "degraded"]),
            ),
            models.Index("id", name="idx_workspaces_cleanup", condition=Q(cleanup_pending=True)),
            models.Index(
                "id", name="idx_workspaces_busy", condition=Q(active_tasks__gt=0) & ~Q(status="removed")
            ),
            models.Index(
                Coalesce("idle_since", "status_changed_at"),
                name="idx_workspaces_idle",
                condition=Q(
                    status__in=["online", "degraded"], active_tasks=0, hibernation_idle_minutes__isnull=True
                ),
            ),
            models.Index(
                "hibernation_idle_minutes",
                name="idx_workspaces_own_idle",
                condition=Q(hibernation_idle_minutes__isnull=False),
            ),
            models.Index(
                "provision_deadline_at", name="idx_workspaces_deadline", condition=Q(status="provisioning")
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_managed(self) -> bool:
        return self.runtime != EXTERNAL


class CanvasLayout(models.Model):
    """Where a workspace stands on the canvas, absolute;
    `collapsed` hides its descendants there and nothing else.
    """

    workspace = models.OneToOneField(Workspace, models.CASCADE, primary_key=True, related_name="layout")
    x = models.FloatField(default=0)
    y = models.FloatField(default=0)
    collapsed = models.BooleanField(default=False)

    class Meta:
        db_table = "canvas_layouts"


class WorkspaceConfig(models.Model):
    """The data of the canvas's Config tab."""

    workspace = models.OneToOneField(Workspace, models.CASCADE, primary_key=True, related_name="config")
    data = models.JSONField(default=dict)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "workspace_config"


class CanvasViewport(models.Model):
    """Where the canvas was last looking: one row for the whole deployment."""

    id = models.UUIDField(primary_key=True, default=VIEWPORT_ID, editable=False)
    x = models.FloatField(default=0)
    y = models.FloatField(default=0)
    zoom = models.FloatField(default=1)
    saved_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "canvas_viewport"
        constraints = [
            models.CheckConstraint(name="canvas_viewport_one_row", condition=Q(id=VIEWPORT_ID)),
            models.CheckConstraint(name="canvas_viewport_zoom", condition=Q(zoom__gt=0)),
        ]


class AgentStatus(models.TextChoices):
    ACTIVE = "active"
    REPLACED = "replaced"
    REMOVED = "removed"


class RemovalReason(models.TextChoices):
    MODEL_REPLACED = "model_replaced"
    MANUAL_REMOVAL = "manual_removal"


class AgentQuerySet(models.QuerySet["Agent"]):
    def active(self) -> Self:
        return self.filter(status=AgentStatus.ACTIVE)


class Agent(models.Model):
    """The model assigned to a workspace. At most one is active; earlier ones stay as history."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="agents", db_index=False)
    model = models.TextField()
    status = models.TextField(choices=AgentStatus, default=AgentStatus.ACTIVE)
    removed_at = models.DateTimeField(null=True)
    removal_reason = models.TextField(choices=RemovalReason, null=True)
    created_at = models.DateTimeField(db_default=Now())
    objects = AgentQuerySet.as_manager()

    class Meta:
        db_table = "agents"
        constraints = [
            models.CheckConstraint(name="agents_status", condition=Q(status__in=AgentStatus.values)),
            models.CheckConstraint(
                name="agents_removal_reason",
                condition=Q(removal_reason=None) | Q(removal_reason__in=RemovalReason.values),
            ),
            models.CheckConstraint(
                name="agents_ended_says_when", condition=Q(status="active") | Q(removed_at__isnull=False)
            ),
            models.UniqueConstraint(
                fields=["workspace"], condition=Q(status="active"), name="agents_one_active_uniq"
            ),
        ]
        indexes = [models.Index("workspace", name="idx_agents_workspace_id")]

    def __str__(self) -> str:
        return f"{self.model} ({self.status})"


class TokenUsage(models.Model):
    """What the agent of a workspace used of its model on one UTC day."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="+", db_index=False)
    period_start = models.DateTimeField()  # midnight UTC
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    call_count = models.IntegerField(default=0)
    estimated_cost_usd = models.DecimalField(max_digits=12, decimal_places=6, default=0)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "workspace_token_usage"
        constraints = [
            # Serves the upsert and the read of one day.
            models.UniqueConstraint(
                fields=["workspace", "period_start"], name="workspace_token_usage_day_uniq"
            )
        ]
