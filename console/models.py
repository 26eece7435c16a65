"""What operators did in the console, one row per action, written before it begins; repairs under way; and how
the fleet was, one row per minute.

Source: docs/reference/console.md, Audit, Repair of leaks, Charts.
"""

from __future__ import annotations

from uuid import uuid4

from django.contrib.auth.models import Group
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from workspaces.models import Workspace


class Outcome(models.TextChoices):
    """`started` and no more: the process died, and the thing acted on tells how far it came."""

    STARTED = "started"
    DONE = "done"
    PARTLY = "partly"  # done for some of the things it was about
    REFUSED = "refused"  # the product said no, and nothing changed
    FAILED = "failed"


class OperatorAction(models.Model):
    """Who did what to which thing, when and why, and what came of it.

    Append-only: a trigger lets a row be ended once, and refuses every other change and every delete. No
    foreign keys: the record outlives the login and the thing.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    actor = models.TextField()
    client_address = models.TextField(default="")
    verb = models.TextField()
    object_kind = models.TextField()
    object_id = models.TextField()
    object_name = models.TextField(default="")
    reason = models.TextField()
    outcome = models.TextField(choices=Outcome, default=Outcome.STARTED)
    result = models.TextField(default="")
    started_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "operator_actions"
        permissions = [
            ("operate", "May restart, pause, resume and hibernate workspaces and resolve delegations"),
            ("administer", "May remove workspaces and repair leaks"),
        ]
        constraints = [
            models.CheckConstraint(name="operator_actions_outcome", condition=Q(outcome__in=Outcome.values)),
            models.CheckConstraint(
                name="operator_actions_says_who_and_why",
                condition=~Q(actor="") & ~Q(verb="") & Q(reason__regex=r"\S"),
            ),
            models.CheckConstraint(
                name="operator_actions_ended",
                condition=Q(outcome="started", ended_at=None)
                | (~Q(outcome="started") & Q(ended_at__isnull=False)),
            ),
        ]
        indexes = [
            models.Index(F("started_at").desc(), name="operator_actions_newest"),
            models.Index("object_id", F("started_at").desc(), name="operator_actions_by_object"),
            models.Index("actor", F("started_at").desc(), name="operator_actions_by_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.object_name or self.object_id} by {self.actor}"


class Repair(models.Model):
    """A removal of leaks that was confirmed: the workspaces that may go, whatever process works on it.

    `id` is that of its record in `operator_actions`, which stays `started` until this has ended. How far it
    is, the workspaces themselves tell.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    actor = models.TextField()
    options = models.JSONField()
    fingerprint = models.TextField()  # of the plan that was confirmed
    workspace_ids = ArrayField(models.UUIDField())
    has_begun = models.BooleanField(default=False)  # the confirmed plan was still true
    failures = models.JSONField(default=dict)  # id -> why it was not removed
    leftovers = ArrayField(models.TextField(), default=list)  # compute of removed ones that still ran
    freed_vcpus = models.FloatField(default=0)
    note = models.TextField(default="")  # what it waits for
    stop_asked_by = models.TextField(default="")
    lease_owner = models.UUIDField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "operator_repairs"
        constraints = [
            models.CheckConstraint(
                name="operator_repairs_lease",
                condition=Q(lease_owner=None, lease_expires_at=None)
                | Q(lease_owner__isnull=False, lease_expires_at__isnull=False, ended_at=None),
            ),
            models.CheckConstraint(
                name="operator_repairs_of_somebody", condition=~Q(actor="") & Q(workspace_ids__len__gt=0)
            ),
        ]
        indexes = [models.Index("created_at", name="operator_repairs_open", condition=Q(ended_at=None))]

    def __str__(self) -> str:
        return f"repair of {len(self.workspace_ids)} workspace(s) by {self.actor}"


class OrgScope(models.Model):
    """Who is in `group` sees, and acts on, the workspace `root_id` and what is below it, and nothing else.

    No foreign key to the workspace: a purge of the org must not open all others to them.
    """

    group = models.ForeignKey(Group, models.CASCADE, related_name="org_scopes")
    root_id = models.UUIDField(
        "workspace",
        help_text="The id of the workspace on top: members see it and all below, nothing else.",
    )

    class Meta:
        db_table = "operator_org_scopes"
        constraints = [models.UniqueConstraint("group", "root_id", name="operator_org_scopes_once")]

    def __str__(self) -> str:
        return str(self.root_id)

    def clean(self) -> None:
        if not Workspace.objects.live().filter(pk=self.root_id).exists():
            raise ValidationError({"root_id": "There is no such workspace."})


class FleetSample(models.Model):
    """How the fleet was at a moment: `values` by name, states as they were and counters as they stood.

    What the charts are drawn from: what a table held an hour ago can be asked of nobody else.
    """

    at = models.DateTimeField(primary_key=True)
    values = models.JSONField()

    class Meta:
        db_table = "fleet_samples"

    def __str__(self) -> str:
        return f"the fleet at {self.at:%Y-%m-%d %H:%M}"
