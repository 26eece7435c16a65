"""Staged files for tests that are about something else."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models.functions import Now

from uploads.models import PendingUpload
from uploads.services import files
from uploads.storage import Item


def item(data: bytes = b"some bytes", name: str = "a.txt", mime_type: str = "text/plain") -> Item:
    return Item(io.BytesIO(data), len(data), name, mime_type)


def staged(workspace_id: Any, data: bytes = b"some bytes", **changes: Any) -> UUID:
    """A staged file; `changes` are columns that its life would have changed."""
    name, mime_type = changes.pop("filename", "a.txt"), changes.pop("mimetype", "text/plain")
    file_id = files.put(workspace_id, item(data, name, mime_type))
    if changes:
        PendingUpload.objects.filter(pk=file_id).update(**changes)
    return file_id


def expired(file_id: UUID) -> UUID:
    """As if it had been staged two days ago."""
    PendingUpload.objects.filter(pk=file_id).update(
        created_at=Now() - timedelta(days=2), expires_at=Now() - timedelta(days=1)
    )
    return file_id


def acked(file_id: UUID, ago: timedelta = timedelta()) -> UUID:
    PendingUpload.objects.filter(pk=file_id).update(acked_at=Now() - ago)
    return file_id


def row(file_id: UUID) -> PendingUpload:
    found: PendingUpload = PendingUpload.objects.get(pk=file_id)
    return found


def exists(file_id: UUID) -> bool:
    return PendingUpload.objects.filter(pk=file_id).exists()
