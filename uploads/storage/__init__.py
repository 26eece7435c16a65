"""The storages by the name that rows carry. New files go to the configured one; a row is read wherever it
says it is, whatever is configured today.
"""

from __future__ import annotations

from functools import cache

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


@cache
def backend_of(storage: str) -> Backend:
    if storage == Storage.S3:
        from uploads.storage.s3 import S3Backend  # its SDK costs every process 0.4 s where nobody uses it

        return S3Backend()
    return InlineBackend()


def backend_for_new() -> Backend:
    return backend_of(Storage.S3 if settings.PENDING_UPLOADS_BACKEND == "s3" else Storage.INLINE)
