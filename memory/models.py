"""What workspaces keep of their own. Source: docs/reference/memory.md."""

from __future__ import annotations

from typing import Self
from uuid import uuid4

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
