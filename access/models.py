"""Credentials and secrets at rest."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self
from uuid import uuid4

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class TokenKind(models.TextChoices):
    """`instance` is held by a runtime and replaced with its compute; `api` was minted by a person and
    stays.
    """

    INSTANCE = "instance"
    API = "api"


class WorkspaceTokenQuerySet(models.QuerySet["WorkspaceAuthToken"]):
    def live(self) -> Self:
        return self.filter(revoked_at=None)


class WorkspaceAuthToken(models.Model):
    """A bearer bound to one workspace. Only its SHA-256 is stored; `prefix` is for people and logs."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    token_hash = models.BinaryField(unique=True)
    prefix = models.CharField(max_length=8)
    kind = models.TextField(choices=TokenKind, default=TokenKind.INSTANCE)
    generation = models.BigIntegerField(null=True)  # instance tokens: the workspace's generation when minted
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    objects = WorkspaceTokenQuerySet.as_manager()

    class Meta:
        db_table = "workspace_auth_tokens"
        constraints = [
            models.CheckConstraint(name="workspace_auth_tokens_kind", condition=Q(kind__in=TokenKind.values))
        ]
        indexes = [
            models.Index("workspace", name="workspace_auth_tokens_live", condition=Q(revoked_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"

    def was_unused_since(self, now: datetime, window: timedelta) -> bool:
        return self.last_used_at is None or self.last_used_at < now - window


class WorkspaceSecret(models.Model):
    """One secret of one workspace; overrides the global one of the same key."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    key = models.TextField()
    encrypted_value = models.BinaryField()
    encryption_version = models.IntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "workspace_secrets"
        constraints = [
            models.UniqueConstraint(fields=["workspace", "key"], name="workspace_secrets_key_uniq")
        ]
        indexes = [models.Index("key", name="workspace_secrets_by_key")]

    def __str__(self) -> str:
        return self.key


class GlobalSecret(models.Model):
    """One secret that every workspace receives unless it has its own."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    key = models.TextField(unique=True)
    encrypted_value = models.BinaryField()
    encryption_version = models.IntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "global_secrets"

    def __str__(self) -> str:
        return self.key
