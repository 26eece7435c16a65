"""A staged file on its way to the agent, or to the user who looks at it once more.

Source: docs/reference/uploads.md, Content.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from config.errors import Internal, NotFound
from config.threads import release_connection
from uploads.limits import SENT_BYTES
from uploads.models import PendingUpload
from uploads.services import files
from uploads.storage import FileNotFound, StorageError
from uploads.temporary import temporary_file

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Reader:
    """Who reads. An agent reads an acknowledged file again only when it says so: by itself that is a mistake.
    The user may look at it as long as it is kept.
    """

    is_agent: bool
    include_acked: bool = False

    @property
    def name(self) -> str:
        return "workspace" if self.is_agent else "operator"

    def sees(self, row: PendingUpload) -> bool:
        if row.is_outbound and self.is_agent:
            return False
        return row.acked_at is None or not self.is_agent or self.include_acked


def gone() -> NotFound:
    """The one answer for every reason: another would tell that a file of somebody else exists."""
    return NotFound("pending upload not found")


def find_file(workspace_id: UUID, file_id: UUID, op: str) -> PendingUpload:
    """The row of a workspace's own file, in any state. Raises NotFound."""
    try:
        row = files.stat(file_id)
    except FileNotFound:
        raise gone() from None
    if row.workspace_id != workspace_id:
        log.warning(
            "pending_upload.workspace_mismatch",
            workspace_id=str(workspace_id),
            file_id=str(file_id),
            row_workspace_id=str(row.workspace_id),
            op=op,
        )
        raise gone()
    return row


def open_file(workspace_id: UUID, file_id: UUID, reader: Reader) -> tuple[PendingUpload, Iterator[bytes]]:
    """The row and its bytes, all of them at hand: nothing that happens to the row cuts them short.

    Raises NotFound, Internal. The agent's complete read is stamped when the bytes have been taken.
    """
    row = find_file(workspace_id, file_id, "fetch")
    if row.expires_at <= timezone.now() or not reader.sees(row):
        raise gone()
    try:
        body = _at_hand(row)
    except FileNotFound:
        raise gone() from None
    except StorageError as error:
        find_file(workspace_id, file_id, "fetch")  # swept meanwhile, and its object with it
        log.error(
            "pending_upload.storage_error",
            workspace_id=str(workspace_id),
            file_id=str(file_id),
            op="fetch",
            error=f"{error}: {error.__cause__}",
        )
        raise Internal("could not read the file") from error
    return row, _sent(row, body, reader)


def _at_hand(row: PendingUpload) -> BinaryIO:
    """The bytes in an unnamed file: no database connection waits for a slow client."""
    body = temporary_file()
    try:
        for chunk in files.iter_chunks(row):
            body.write(chunk)
        body.seek(0)
    except BaseException:
        body.close()
        raise
    release_connection()
    return body


def _sent(row: PendingUpload, body: BinaryIO, reader: Reader) -> Iterator[bytes]:
    began, sent = time.monotonic(), 0
    about = {"workspace_id": str(row.workspace_id), "file_id": str(row.pk)}
    try:
        with body:
            while chunk := body.read(SENT_BYTES):
                yield chunk
                sent += len(chunk)
    except GeneratorExit:  # a preview reads the beginning only
        log.info("pending_upload.fetch_aborted", **about, bytes_sent=sent)
        raise
    if reader.is_agent and row.acked_at is None:
        _stamp(row)
    log.info(
        "pending_upload.fetched",
        **about,
        size=row.size_bytes,
        name=row.filename,
        caller_class=reader.name,
        duration_ms=int((time.monotonic() - began) * 1000),
    )


def _stamp(row: PendingUpload) -> None:
    """The client has its bytes, whatever becomes of the stamp."""
    try:
        files.mark_fetched(row.pk)
    except (DatabaseError, InterfaceError, FileNotFound) as error:
        log.warning(
            "pending_upload.mark_fetched_failed",
            workspace_id=str(row.workspace_id),
            file_id=str(row.pk),
            error=f"{type(error).__name__}: {error}",
        )
    release_connection()


def ack_file(workspace_id: UUID, file_id: UUID) -> bool:
    """The agent has the file; whether the sweep had removed it while we looked. Repeats succeed.

    Reads no bytes. Raises NotFound for a file that is not the workspace's, or expired unacknowledged.
    """
    row = find_file(workspace_id, file_id, "ack")
    if row.is_outbound:
        raise gone()
    event = "pending_upload.ack_repeat"
    is_raced = False
    if row.acked_at is None:
        try:
            outcome = files.ack(file_id)
        except FileNotFound:
            raise gone() from None
        is_raced = outcome is files.Acked.VANISHED
        event = f"pending_upload.{outcome.value}"
    log.info(
        event,
        workspace_id=str(workspace_id),
        file_id=str(file_id),
        size=row.size_bytes,
        name=row.filename,
        age_ms=int((timezone.now() - row.created_at).total_seconds() * 1000),
    )
    return is_raced
