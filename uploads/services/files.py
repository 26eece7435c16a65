"""Verbs over staged files: store, find, read, stamp, acknowledge. The bytes are a storage's business.

Source: docs/reference/uploads.md, Storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Sum
from django.db.models.functions import Now

from config.locks import outside_transaction
from uploads.models import PendingUpload
from uploads.storage import (
    FileNotFound,
    Item,
    Prepared,
    backend_for_new,
    backend_of,
    checked,
)


def put(workspace_id: UUID, item: Item) -> UUID:
    """Store one file. Raises as `put_batch`."""
    return put_batch(workspace_id, [item])[0]


def put_batch(workspace_id: UUID, items: Sequence[Item]) -> list[UUID]:
    """Store all of the files or none; their ids in the given order.

    Raises InvalidItem, ItemTooLarge, StorageError, DatabaseError.
    """
    if not items:
        return []
    prepared = prepare_batch(workspace_id, items)
    try:
        with transaction.atomic():
            return insert_batch(prepared)
    except BaseException:
        discard(prepared)
        raise


def prepare_batch(workspace_id: UUID, items: Sequence[Item], *, is_outbound: bool = False) -> Prepared:
    """Check the files, give them ids, and do what must precede the transaction.

    Raises InvalidItem, ItemTooLarge before anything is written, and StorageError.
    """
    outside_transaction()
    backend = backend_for_new()
    return backend.prepare(checked(backend, workspace_id, items, is_outbound=is_outbound))


def insert_batch(prepared: Prepared) -> list[UUID]:
    """Insert the rows in the caller's transaction, whose rollback takes all of them back; the ids in order.

    Raises TransactionManagementError without a transaction; StorageError, DatabaseError.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("a batch is inserted in the caller's transaction")
    prepared.backend.insert(prepared)
    return prepared.ids


def discard(prepared: Prepared) -> None:
    """The batch was not inserted: whatever preparing it left is removed sooner or later. Never raises."""
    prepared.backend.discard(prepared)


def stat(file_id: UUID) -> PendingUpload:
    """The row in any state, without its bytes. Raises FileNotFound."""
    row: PendingUpload | None = PendingUpload.objects.filter(pk=file_id).first()
    if row is None:
        raise FileNotFound(file_id)
    return row


def get(file_id: UUID, *, include_acked: bool = False) -> PendingUpload:
    """The row of a file that may be read. Raises FileNotFound for one that is expired, or acknowledged."""
    rows = PendingUpload.objects.unexpired().filter(pk=file_id)
    row: PendingUpload | None = (rows if include_acked else rows.filter(acked_at=None)).first()
    if row is None:
        raise FileNotFound(file_id)
    return row


def iter_chunks(row: PendingUpload) -> Iterator[bytes]:
    """The bytes of a row. Raises FileNotFound, StorageError."""
    outside_transaction()
    return backend_of(row.storage).chunks(row)


def mark_fetched(file_id: UUID) -> None:
    """Stamp the latest complete read. Raises FileNotFound: gone, expired or acknowledged."""
    rows = PendingUpload.objects.unexpired().filter(pk=file_id, acked_at=None)
    if not rows.update(fetched_at=Now()):
        raise FileNotFound(file_id)


class Acked(Enum):
    """What an acknowledgement met; each is a success. The value is its name in the log."""

    NOW = "acked"
    BEFORE = "ack_repeat"
    VANISHED = "ack_raced"  # removed by the sweep since it was looked up


def ack(file_id: UUID) -> Acked:
    """Stamp the acknowledgement, once. Raises FileNotFound for a file that expired without one."""
    rows = PendingUpload.objects.unexpired().filter(pk=file_id, acked_at=None)
    if rows.update(acked_at=Now()):
        return Acked.NOW
    stamps = PendingUpload.objects.filter(pk=file_id).values_list("acked_at", flat=True)
    for stamp in stamps:
        if stamp is None:
            raise FileNotFound(file_id)
        return Acked.BEFORE
    return Acked.VANISHED


def list_unacked(workspace_id: UUID, limit: int) -> list[PendingUpload]:
    """What waits for the agent, oldest first."""
    rows = PendingUpload.objects.unacked(workspace_id).unexpired().filter(is_outbound=False)
    return list(rows.order_by("created_at", "file_id")[:limit])


def waiting_bytes(workspace_id: UUID) -> int:
    """Bytes that are staged for a workspace and neither acknowledged nor expired."""
    rows = PendingUpload.objects.unacked(workspace_id).unexpired()
    return int(rows.aggregate(total=Sum("size_bytes"))["total"] or 0)
