"""Where compute stands: the ledger of start attempts and the durable state of restarts.

Source: docs/reference/provisioning.md.
"""

from __future__ import annotations

from typing import Any, Self
from uuid import uuid4

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from config.states import StateMachine


class RunKind(models.TextChoices):
    CREATE = "create"
    RESTART = "restart"
    AUTO_RESTART = "auto_restart"
    RESUME = "resume"
    WAKE = "wake"
    IMAGE_REFRESH = "image_refresh"
    TEARDOWN = "teardown"


class RunState(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    STARTED = "started"  # compute runs, the agent has not called yet
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


STOPS_FIRST = frozenset({RunKind.RESTART, RunKind.AUTO_RESTART, RunKind.IMAGE_REFRESH})
IMPORT = "import"  # the trigger of starts that an import asked for: they share a few slots
OPEN = frozenset({RunState.QUEUED, RunState.RUNNING})
BACKEND_LABELS = ["cp", "docker", "process", "memory", "none"]

RUNS = StateMachine(
    {  # becomes: {from}
        RunState.QUEUED: {RunState.RUNNING},  # handed back: another try, or another worker
        RunState.RUNNING: {RunState.QUEUED, RunState.RUNNING},  # from running: the lease of a dead worker
        RunState.STARTED: {RunState.RUNNING},
        # from failed: the agent registered after all
        RunState.SUCCEEDED: {RunState.RUNNING, RunState.STARTED, RunState.FAILED},
        RunState.FAILED: {RunState.QUEUED, RunState.RUNNING, RunState.STARTED},
        RunState.SUPERSEDED: {RunState.QUEUED, RunState.RUNNING, RunState.STARTED},
        RunState.CANCELLED: {RunState.QUEUED, RunState.STARTED},  # parked or removed before its agent came
    }
)


class ProvisionRunQuerySet(models.QuerySet["ProvisionRun"]):
    def open(self) -> Self:
        return self.filter(state__in=OPEN)

    def claimable(self) -> Self:
        """Not yet taken, or taken by a worker whose lease ran out by the database's clock."""
        return self.filter(Q(state=RunState.QUEUED) | Q(state=RunState.RUNNING, lease_expires_at__lt=Now()))

    def starts(self) -> Self:
        return self.exclude(kind=RunKind.TEARDOWN)

    def imported(self) -> Self:
        """Asked for by an import: they share its slots."""
        return self.filter(trigger=IMPORT).starts()

    def in_flight(self) -> Self:
        """With a worker that lives: claimed, and the backend's start has not returned yet."""
        return self.filter(state=RunState.RUNNING, lease_expires_at__gt=Now())

    def leased_by(self, run: ProvisionRun) -> Self:
        """The run as long as nobody took it over or ended it: the fence of its worker's own writes."""
        return self.filter(pk=run.pk, state=RunState.RUNNING, lease_owner=run.lease_owner)


class ProvisionRun(models.Model):
    """One start attempt of one generation.

    Written before the backend is called, so that no compute is unknown.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace_id = models.UUIDField()  # no foreign key: the ledger outlives a purge
    generation = models.BigIntegerField()
    kind = models.TextField(choices=RunKind)
    trigger = models.TextField(default="")
    backend = models.TextField(default="none")
    state = models.TextField(choices=RunState, default=RunState.QUEUED)
    options: models.JSONField[dict[str, Any], dict[str, Any]] = models.JSONField(
        default=dict
    )  # {reset_session?, prior_status?, ...}: what the restart route was asked for
    error_class = models.TextField(null=True)
    error_safe = models.TextField(null=True)
    error_detail = models.TextField(null=True)  # server only: redacted, never in an answer to a non-admin
    compute_id = models.TextField(null=True)
    image = models.TextField(null=True)
    image_digest = models.TextField(null=True)
    steps = models.JSONField(default=list)  # [{name, status, started_at, duration_ms, message}]
    requested_by = models.TextField(default="")
    attempts = models.IntegerField(default=0)
    lease_owner = models.TextField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    queued_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(db_default=Now())  # not before this does a sweep ring for the run (again)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    objects = ProvisionRunQuerySet.as_manager()

    class Meta:
        db_table = "provision_runs"
        constraints = [
            models.CheckConstraint(name="provision_runs_kind", condition=Q(kind__in=RunKind.values)),
            models.CheckConstraint(name="provision_runs_state", condition=Q(state__in=RunState.values)),
            models.CheckConstraint(name="provision_runs_backend", condition=Q(backend__in=BACKEND_LABELS)),
            models.CheckConstraint(
                name="provision_runs_running_has_lease",
                condition=~Q(state="running") | Q(lease_expires_at__isnull=False),
            ),
            models.UniqueConstraint(
                fields=["workspace_id", "generation"],
                condition=~Q(kind="teardown"),
                name="provision_runs_generation_uniq",
            ),
            models.UniqueConstraint(
                fields=["workspace_id"],
                condition=Q(kind="teardown", state__in=sorted(OPEN)),
                name="provision_runs_teardown_uniq",
            ),
        ]
        indexes = [
            models.Index("workspace_id", F("generation").desc(), name="provision_runs_workspace"),
            # Serves the health check's question: whose compute runs before its agent has called.
            models.Index(
                "workspace_id", "generation", name="provision_runs_booting", condition=Q(state="started")
            ),
            models.Index("due_at", name="provision_runs_open", condition=Q(state__in=sorted(OPEN))),
            models.Index("compute_id", name="provision_runs_compute", condition=Q(compute_id__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.workspace_id} g{self.generation}"


class WorkspaceLifecycleQuerySet(models.QuerySet["WorkspaceLifecycle"]):
    def with_context(self) -> Self:
        """With something to tell the agent about its restart that has neither been told nor expired."""
        return self.filter(restart_context__isnull=False, restart_context_expires_at__gt=Now())


class WorkspaceLifecycle(models.Model):
    """Durable state of restarts of one workspace, so that no request is lost with a process."""

    workspace = models.OneToOneField(
        "workspaces.Workspace", models.CASCADE, primary_key=True, related_name="lifecycle"
    )
    restart_pending = models.BooleanField(default=False)
    pending_since = models.DateTimeField(null=True)
    pending_trigger = models.TextField(null=True)
    pending_options: models.JSONField[dict[str, Any], dict[str, Any]] = models.JSONField(default=dict)
    cycle_started_at = models.DateTimeField(null=True)  # drives debounce and settle window
    auto_restarts: models.JSONField[list[str], list[str]] = models.JSONField(default=list)  # times, last hour
    # A stop is owed to every compute of a lower generation; never a bare flag, which would later kill the new
    # one.
    stop_below_generation = models.BigIntegerField(null=True)
    stop_attempts = models.IntegerField(default=0)
    refresh_asked_at = models.DateTimeField(null=True)  # a newer image is here; restart when idle
    # {generation, restart_at, ended_at, env_keys}: what the agent is told once it is back
    restart_context: models.JSONField[dict[str, Any] | None, dict[str, Any] | None] = models.JSONField(
        null=True
    )
    restart_context_expires_at = models.DateTimeField(null=True)
    objects = WorkspaceLifecycleQuerySet.as_manager()

    class Meta:
        db_table = "workspace_lifecycle"
        indexes = [
            models.Index("workspace", name="workspace_lifecycle_pending", condition=Q(restart_pending=True)),
            models.Index(
                "workspace",
                name="workspace_lifecycle_stop_owed",
                condition=Q(stop_below_generation__isnull=False),
            ),
            models.Index(
                "restart_context_expires_at",
                name="workspace_lifecycle_context",
                condition=Q(restart_context__isnull=False),
            ),
            models.Index(
                "refresh_asked_at",
                name="workspace_lifecycle_refresh",
                condition=Q(refresh_asked_at__isnull=False),
            ),
        ]


class BootBundle(models.Model):
    """What a machine fetches from us when it boots: environment, files and image of one generation.

    Kept until the agent's first heartbeat or its expiry. The bearer is stored as a hash, and inside the
    sealed text, for a start that is tried again.
    """

    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    generation = models.BigIntegerField()
    token_hash = models.BinaryField(unique=True)
    sealed = models.TextField()
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "boot_bundles"
        constraints = [
            models.UniqueConstraint(fields=["workspace", "generation"], name="boot_bundles_generation_uniq")
        ]
        indexes = [models.Index("expires_at", name="boot_bundles_expiry")]


class RuntimeImagePin(models.Model):
    """The exact image of a runtime, instead of the newest one."""

    template_name = models.TextField(primary_key=True)  # the runtime
    digest = models.TextField()
    updated_at = models.DateTimeField(db_default=Now())
    updated_by = models.TextField(default="", db_default="")
    notes = models.TextField(default="", db_default="")

    class Meta:
        db_table = "runtime_image_pins"
        constraints = [
            models.CheckConstraint(
                name="runtime_image_pins_digest", condition=Q(digest__regex=r"^sha256:[a-f0-9]{64}$")
            )
        ]

    def __str__(self) -> str:
        return f"{self.template_name}@{self.digest}"


class ImageWatchState(models.Model):
    """The digest last seen in the registry: a move while the server was down is noticed."""

    runtime = models.TextField(primary_key=True)
    digest = models.TextField(null=True)
    seen_at = models.DateTimeField(null=True)
    last_error = models.TextField(null=True)

    class Meta:
        db_table = "image_watch_state"


class ComputeScan(models.Model):
    """What the last complete comparison of compute with rows found; no row before the first one."""

    name = models.TextField(primary_key=True)  # a job
    scanned_at = models.DateTimeField()
    findings: models.JSONField[dict[str, Any], dict[str, Any]] = models.JSONField(
        default=dict
    )  # {orphans: n, duplicates: {workspace_id: n}, refused: n}

    class Meta:
        db_table = "compute_scans"
