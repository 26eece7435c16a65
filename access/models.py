"""Credentials and secrets at rest."""

from __future__ import annotations

from datetime import datetime
from typing import Self
from uuid import uuid4

from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce, Now


class TokenKind(models.TextChoices):
    """`instance` is held by a runtime and replaced with its compute;
    `api` was minted by a person and stays.
    """

    INSTANCE = "instance"
    API = "api"


class WorkspaceTokenQuerySet(models.QuerySet["WorkspaceAuthToken"]):
    def live(self) -> Self:
        return self.filter(revoked_at=None)

    def unused(self, since: datetime) -> Self:
        """Neither used nor minted since."""
        return self.alias(seen=Coalesce("last_used_at", "created_at")).filter(seen__lt=since)


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
            models.Index(
                Coalesce("last_used_at", "created_at"),
                name="workspace_auth_tokens_unused",
                condition=Q(revoked_at=None, kind="instance"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"


class OrgTokenQuerySet(models.QuerySet["OrgApiToken"]):
    def live(self, now: datetime) -> Self:
        """Neither revoked nor expired, and, when bound to an org, that org is still there."""
        orphaned = Q(is_anchored=True, org=None)
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None).exclude(orphaned)


class OrgApiToken(models.Model):
    """A bearer of the operator class. With `org` it opens the workspaces of that org only ("anchored").

    `is_anchored` outlives the org: a token whose org was deleted is dead, it never becomes an unbound one.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    token_hash = models.BinaryField(unique=True)
    prefix = models.CharField(max_length=8)
    name = models.TextField(null=True)
    created_by = models.TextField(null=True)  # the minting caller's actor label
    org = models.ForeignKey(
        "workspaces.Workspace", models.SET_NULL, null=True, related_name="+", db_index=False
    )
    is_anchored = models.BooleanField(db_default=False)
    expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    objects = OrgTokenQuerySet.as_manager()

    class Meta:
        db_table = "org_api_tokens"
        constraints = [
            models.CheckConstraint(name="org_api_tokens_anchor", condition=Q(org=None) | Q(is_anchored=True))
        ]
        indexes = [
            models.Index("token_hash", name="org_api_tokens_live", condition=Q(revoked_at=None)),
            models.Index("org", name="org_api_tokens_by_org", condition=~Q(org=None)),
            models.Index(fields=["-created_at"], name="org_api_tokens_newest", condition=Q(revoked_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"


class OrgTokenAction(models.TextChoices):
    MINT = "mint"
    REVOKE = "revoke"


class OrgTokenAuditLog(models.Model):
    """Who minted or revoked which org token, from where."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    token = models.ForeignKey(OrgApiToken, models.SET_NULL, null=True, related_name="+", db_index=False)
    action = models.TextField(choices=OrgTokenAction)
    actor = models.TextField()
    org_id = models.UUIDField(null=True)  # no foreign key: the record outlives the org
    ip_address = models.TextField(null=True)
    user_agent = models.TextField(null=True)
    metadata = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "org_token_audit_logs"
        constraints = [
            models.CheckConstraint(
                name="org_token_audit_logs_action", condition=Q(action__in=OrgTokenAction.values)
            )
        ]
        indexes = [
            models.Index("token", name="org_token_audit_logs_by_token"),
            models.Index(fields=["-created_at"], name="org_token_audit_logs_newest"),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.actor}"


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
