"""Bytes in the row itself.

They go in through one binary COPY, a piece at a time, so that memory depends neither on the size of a file
nor on their number; a bound parameter would hold a whole file several times over. They come out in slices.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from django.db import DatabaseError, connection
from psycopg.pq import Format

from uploads.limits import SLICE_BYTES
from uploads.models import PendingUpload, Storage
from uploads.storage.base import FileNotFound, Prepared, PreparedItem, StorageError

# The binary format of COPY: https://www.postgresql.org/docs/current/sql-copy.html, File Formats.
_COPY = """
COPY pending_uploads (file_id, workspace_id, outbound, size_bytes, filename, mimetype, content)
FROM STDIN (FORMAT BINARY)
"""
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = struct.pack("!h", -1)
_SLICE = "SELECT substring(content FROM %s FOR %s) FROM pending_uploads WHERE file_id = %s"


class InlineBackend:
    storage = Storage.INLINE

    def prepare(self, prepared: Prepared) -> Prepared:
        return prepared

    def insert(self, prepared: Prepared) -> None:
        with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write(_HEADER)
            for one in prepared.items:
                for piece in _tuple(prepared, one):
                    copy.write(piece)
            copy.write(_TRAILER)

    def discard(self, prepared: Prepared) -> None:
        """Nothing was written outside the transaction."""

    def chunks(self, row: PendingUpload) -> Iterator[bytes]:
        """Slices of at most a MiB. Bytes of a row never change: either every slice is of the file, or the row
        is gone.
        """
        with connection.cursor() as cursor:
            cursor.cursor.format = Format.BINARY  # else every byte would come as two characters
            for start in range(1, row.size_bytes + 1, SLICE_BYTES):
                try:
                    cursor.execute(_SLICE, [start, SLICE_BYTES, row.pk])
                    found = cursor.fetchone()
                except DatabaseError as error:
                    raise StorageError("a slice could not be read") from error
                if found is None:
                    raise FileNotFound(row.pk)
                yield found[0]


def _tuple(prepared: Prepared, one: PreparedItem) -> Iterator[bytes]:
    item = one.item
    fields = (
        one.file_id.bytes,
        prepared.workspace_id.bytes,
        struct.pack("!?", prepared.is_outbound),
        struct.pack("!q", item.size),
        item.filename.encode(),
        item.mimetype.encode(),
    )
    yield struct.pack("!h", len(fields) + 1)
    for field in fields:
        yield struct.pack("!i", len(field)) + field
    yield struct.pack("!i", item.size)
    item.body.seek(0)
    left = item.size
    while left:
        piece = item.body.read(min(left, SLICE_BYTES))
        if not piece:
            raise StorageError(f"{left} bytes of the file are missing")
        left -= len(piece)
        yield piece
