"""The storages by the name that rows carry. New files go to the configured one; a row is read wherever it
says it is, whatever is configured today.
"""

from __future__ import annotations

from django.conf import settings

from uploads.models import Storage
from uploads.storage.base import (
    Backend,
    FileNotFound,
    InvalidItem,
    Item,
    ItemTooLarge,
    Prepared,
    PreparedItem,
    StorageError,
    checked,
)
from uploads.storage.inline import InlineBackend
from uploads.storage.s3 import S3Backend

__all__ = [
    "Backend",
    "FileNotFound",
    "InvalidItem",
    "Item",
    "ItemTooLarge",
    "Prepared",
    "PreparedItem",
    "StorageError",
    "backend_for_new",
    "backend_of",
    "checked",
]

_BACKENDS: dict[str, Backend] = {Storage.INLINE: InlineBackend(), Storage.S3: S3Backend()}


def backend_of(storage: str) -> Backend:
    return _BACKENDS[storage]


def backend_for_new() -> Backend:
    return _BACKENDS[Storage.S3 if settings.PENDING_UPLOADS_BACKEND == "s3" else Storage.INLINE]
