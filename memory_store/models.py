"""Namespaces and their records. Source: docs/reference/memory-plugin.md, Tables.

The room stands alone: the plugin process has these two tables and nothing else of the product.
"""

from __future__ import annotations

from uuid import uuid4

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Length, Now
from django.db.models.lookups import LessThanOrEqual

from memory_store.contract import KINDS, NAME_CHARS, NAMESPACE_KINDS, SOURCES


class MemoryNamespace(models.Model):
    name = models.TextField(primary_key=True)
    kind = models.TextField()
    expires_at = models.DateTimeField(null=True)
    metadata = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "memory_namespaces"
        constraints = [
            models.CheckConstraint(
                name="memory_namespaces_name", condition=Q(name__regex=r"^[a-z]+:[A-Za-z0-9_:.-]+$")
            ),
            models.CheckConstraint(
                name="memory_namespaces_length", condition=LessThanOrEqual(Length("name"), NAME_CHARS)
            ),
            models.CheckConstraint(name="memory_namespaces_kind", condition=Q(kind__in=NAMESPACE_KINDS)),
        ]
        indexes = [
            models.Index("expires_at", name="memory_namespaces_expiry", condition=Q(expires_at__isnull=False))
        ]

    def __str__(self) -> str:
        return self.name


class MemoryRecord(models.Model):
    """`content` was redacted by the server. The namespace takes its records with it, in the database."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    # The foreign key with its cascade is the migration's: Django's own deletes nothing in the database.
    namespace = models.ForeignKey(
        MemoryNamespace, models.DO_NOTHING, db_column="namespace", db_constraint=False, db_index=False
    )
    content = models.TextField()
    kind = models.TextField()
    source = models.TextField()
    expires_at = models.DateTimeField(null=True)
    propagation = models.JSONField(null=True)
    pin = models.BooleanField(default=False)
    content_sha256 = models.CharField(max_length=64)
    content_tsv = models.GeneratedField(
        expression=SearchVector("content", config="english"),
        output_field=SearchVectorField(),
        db_persist=True,
    )
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "memory_records"
        constraints = [
            models.CheckConstraint(name="memory_records_kind", condition=Q(kind__in=KINDS)),
            models.CheckConstraint(name="memory_records_source", condition=Q(source__in=SOURCES)),
        ]
        indexes = [
            models.Index(fields=["namespace", "-pin", "-created_at", "id"], name="memory_records_list"),
            models.Index(fields=["namespace", "kind", "content_sha256"], name="memory_records_same"),
            models.Index("expires_at", name="memory_records_expiry", condition=Q(expires_at__isnull=False)),
            GinIndex(fields=["content_tsv"], name="memory_records_text"),
        ]

    def __str__(self) -> str:
        return str(self.pk)
