"""What workspaces keep of their own. Source: docs/reference/memory.md."""

from __future__ import annotations

from typing import Self
from uuid import uuid4

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class KeyValueQuerySet(models.QuerySet["KeyValue"]):
    def live(self) -> Self:
        """By the database's clock: an expired value counts as absent everywhere."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=Now()))

    def expired(self) -> Self:
        return self.filter(expires_at__lte=Now())


class KeyValue(models.Model):
    """One value of a workspace; `version` grows with every write and never repeats."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    key = models.TextField()
    value = models.JSONField()  # may be JSON null
    version = models.BigIntegerField(db_default=1)
    expires_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(db_default=Now())
    objects = KeyValueQuerySet.as_manager()

    class Meta:
        db_table = "workspace_memory"
        constraints = [models.UniqueConstraint(fields=["workspace", "key"], name="workspace_memory_key_uniq")]
        indexes = [
            models.Index("expires_at", name="workspace_memory_expiry", condition=Q(expires_at__isnull=False))
        ]

    def __str__(self) -> str:
        return self.key


class Scope(models.TextChoices):
    """Who reads a memory: its author; the author's team; the org."""

    LOCAL = "LOCAL"
    TEAM = "TEAM"
    GLOBAL = "GLOBAL"


class AgentMemory(models.Model):
    """A fact that an agent remembers. It holds no credentials and goes with its author's purge."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    content = models.TextField()
    scope = models.CharField(max_length=10, choices=Scope)
    namespace = models.CharField(max_length=50, db_default="general")  # a free label, no namespace of records
    content_sha256 = models.CharField(max_length=64)
    content_tsv = models.GeneratedField(
        expression=SearchVector("content", config="english"),
        output_field=SearchVectorField(),
        db_persist=True,
    )
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "agent_memories"
        verbose_name_plural = "agent memories"
        constraints = [
            models.CheckConstraint(name="agent_memories_scope", condition=Q(scope__in=Scope.values)),
        ]
        indexes = [
            models.Index(fields=["workspace", "-created_at", "id"], name="agent_memories_own"),
            models.Index(fields=["workspace", "namespace"], name="agent_memories_label"),
            models.Index(
                fields=["scope", "-created_at"], name="agent_memories_shared", condition=~Q(scope=Scope.LOCAL)
            ),
            models.Index(fields=["workspace", "scope", "content_sha256"], name="agent_memories_same"),
            GinIndex(fields=["content_tsv"], name="agent_memories_text"),
        ]

    def __str__(self) -> str:
        return str(self.pk)


class OutboxEntry(models.Model):
    """What the store of records is owed; `payload` is the record of a commit, as it goes over the wire."""

    class Op(models.TextChoices):
        COMMIT = "commit"
        DELETE_NAMESPACE = "delete_namespace"

    id = models.BigAutoField(primary_key=True)
    op = models.TextField(choices=Op)
    namespace = models.TextField()
    payload = models.JSONField(null=True)
    attempts = models.IntegerField(db_default=0)
    next_attempt_at = models.DateTimeField(db_default=Now())
    last_error = models.TextField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "memory_outbox"
        verbose_name_plural = "outbox entries"
        constraints = [
            models.CheckConstraint(
                name="memory_outbox_op", condition=Q(op__in=["commit", "delete_namespace"])
            ),
            models.UniqueConstraint(
                fields=["op", "namespace"],
                name="memory_outbox_delete_uniq",
                condition=Q(op="delete_namespace"),
            ),
        ]
        indexes = [models.Index(fields=["next_attempt_at", "id"], name="memory_outbox_due")]

    def __str__(self) -> str:
        return f"{self.op} {self.namespace}"
