"""What every storage of staged files is: the files handed to it, and what goes wrong.

A storage keeps names and types as they are; cleaning them is the caller's job. Source:
docs/reference/uploads.md, Storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol
from uuid import UUID, uuid4

from uploads.limits import MAX_FILE_BYTES, MAX_FILENAME
from uploads.models import PendingUpload, Storage


class FileNotFound(Exception):
    """No such file, or none that may be read in its state."""


class InvalidItem(Exception):
    """The item at `index` of a batch cannot be stored."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"item {index}: {reason}")
        self.index = index


class ItemTooLarge(InvalidItem):
    """Above the limit of one file."""


class StorageError(Exception):
    """The bytes could not be written or read; the cause is chained."""


@dataclass(frozen=True)
class Item:
    """One file to store. `body` is read from its start and gives exactly `size` bytes."""

    body: BinaryIO
    size: int
    filename: str
    mimetype: str


@dataclass(frozen=True)
class PreparedItem:
    """An item under the id it will be known by."""

    file_id: UUID
    item: Item
    object_key: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked batch, ready for the caller's transaction."""

    backend: Backend
    workspace_id: UUID
    items: tuple[PreparedItem, ...]
    is_outbound: bool = False

    @property
    def ids(self) -> list[UUID]:
        return [one.file_id for one in self.items]

    @property
    def storage(self) -> Storage:
        return self.backend.storage


class Backend(Protocol):
    """Where bytes are: one per value of the column `storage`."""

    storage: Storage

    def prepare(self, prepared: Prepared) -> Prepared:
        """What must be done before the transaction. Raises StorageError."""

    def insert(self, prepared: Prepared) -> None:
        """Insert every row in the caller's transaction. Raises StorageError, DatabaseError."""

    def discard(self, prepared: Prepared) -> None:
        """The batch will not be inserted; never raises."""

    def chunks(self, row: PendingUpload) -> Iterator[bytes]:
        """The bytes of a row. Raises FileNotFound, StorageError before the first."""


def checked(backend: Backend, workspace_id: UUID, items: Sequence[Item], *, is_outbound: bool) -> Prepared:
    """The batch with its ids, before anything is asked or written. Raises InvalidItem, ItemTooLarge."""
    for index, item in enumerate(items):
        if item.size <= 0:
            raise InvalidItem(index, "it is empty")
        if item.size > MAX_FILE_BYTES:
            raise ItemTooLarge(index, f"it is above {MAX_FILE_BYTES} bytes")
        if not 1 <= len(item.filename) <= MAX_FILENAME:
            raise InvalidItem(index, f"its name has not 1 to {MAX_FILENAME} characters")
    batch = tuple(PreparedItem(uuid4(), item) for item in items)
    return Prepared(backend, workspace_id, batch, is_outbound)
