"""Files that wait for a poll-mode agent, and the objects that are still to be deleted from an object store.

Source: docs/reference/uploads.md.
"""

from __future__ import annotations

from typing import Self
from uuid import UUID

from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models import Q
from django.db.models.functions import Length, Now
from django.db.models.lookups import Range

from uploads.limits import MAX_FILE_BYTES, MAX_FILENAME, STAGED_FOR

SIZE_CHECK = "pending_uploads_size_bytes_check"


class Storage(models.TextChoices):
    """Where the bytes of a row are; each row says it for itself."""

    INLINE = "inline"
    S3 = "s3"


class NamedIndex(models.Index):
    """Operators know the indexes by name; PostgreSQL keeps 63 characters, the framework would keep 30."""

    max_name_length = 63


class PendingUploadQuerySet(models.QuerySet["PendingUpload"]):
    def unacked(self, workspace_id: UUID) -> Self:
        return self.filter(workspace_id=workspace_id, acked_at=None)

    def unexpired(self) -> Self:
        return self.filter(expires_at__gt=Now())


class PendingUploadManager(models.Manager.from_queryset(PendingUploadQuerySet)):  # type: ignore[misc]
    """Rows without their bytes: only what serves a file reads those."""

    def get_queryset(self) -> PendingUploadQuerySet:
        rows: PendingUploadQuerySet = super().get_queryset()
        return rows.defer("content")


class PendingUpload(models.Model):
    """One staged file. Defaults are the database's own, so that a bare insert of the bytes is a whole row.

    Without a foreign key: a row outlives its workspace and goes with its own expiry. `is_outbound`: from the
    agent to the user, never in the agent's inbox.
    """

    file_id = models.UUIDField(primary_key=True, db_default=RandomUUID(), editable=False)
    workspace_id = models.UUIDField()
    content = models.BinaryField(null=True)
    size_bytes = models.BigIntegerField()
    filename = models.TextField()
    mimetype = models.TextField(db_default="")
    storage = models.TextField(choices=Storage, db_default=Storage.INLINE)
    object_key = models.TextField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    fetched_at = models.DateTimeField(null=True)
    acked_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(db_default=Now() + STAGED_FOR)
    is_outbound = models.BooleanField(db_default=False, db_column="outbound")
    objects = PendingUploadManager()

    class Meta:
        db_table = "pending_uploads"
        constraints = [
            models.CheckConstraint(
                name=SIZE_CHECK, condition=Q(size_bytes__gt=0, size_bytes__lte=MAX_FILE_BYTES)
            ),
            models.CheckConstraint(
                name="pending_uploads_filename_check", condition=Range(Length("filename"), (1, MAX_FILENAME))
            ),
            models.CheckConstraint(
                name="pending_uploads_storage_check", condition=Q(storage__in=Storage.values)
            ),
            models.CheckConstraint(
                name="pending_uploads_place_check",
                condition=Q(storage="inline", content__isnull=False, object_key=None)
                | Q(storage="s3", content=None, object_key__isnull=False),
            ),
            models.UniqueConstraint(
                fields=["object_key"],
                condition=Q(object_key__isnull=False),
                name="pending_uploads_object_key_uniq",
            ),
        ]
        indexes = [
            NamedIndex(  # the list and the sum of what waits for one agent
                "workspace_id",
                "created_at",
                name="idx_pending_uploads_workspace_unacked",
                condition=Q(acked_at=None),
            ),
            models.Index(  # the sweep's arm of files nobody fetched
                "expires_at", name="idx_pending_uploads_expires", condition=Q(acked_at=None)
            ),
            models.Index(  # the sweep's arm of acknowledged files
                "acked_at", name="idx_pending_uploads_acked", condition=Q(acked_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return self.filename

    @property
    def uri(self) -> str:
        return pending_uri(self.workspace_id, self.file_id)


def pending_uri(workspace_id: UUID, file_id: UUID) -> str:
    """How a message refers to a staged file."""
    return f"platform-pending:{workspace_id}/{file_id}"


class ObjectGC(models.Model):
    """An object that must go, written before the object: a crash at any line leaves no object without one.

    `attempts` is 0 until the sweep has claimed it; from then on no row may come to use the object.
    """

    object_key = models.TextField(primary_key=True)
    not_before = models.DateTimeField()
    attempts = models.IntegerField(db_default=0)
    last_error = models.TextField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "pending_upload_object_gc"
        indexes = [models.Index("not_before", name="pending_upload_object_gc_due")]

    def __str__(self) -> str:
        return self.object_key
