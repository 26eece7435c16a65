"""Files for a polling agent: bytes and inbox rows in one transaction, announced once it has committed.

Source: docs/reference/uploads.md, Staging.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, IntegrityError, InterfaceError, transaction

from activity.attachments import UPLOAD_METHOD
from activity.services import log_received_together
from config.errors import DomainError, Internal, NotFound, TooLarge, TooManyRequests
from uploads.limits import MAX_FILE_BYTES, QUOTA_RETRY_S
from uploads.models import pending_uri
from uploads.services import files
from uploads.storage import InvalidItem, Item, ItemTooLarge, Prepared, StorageError
from workspaces.models import Workspace

log = structlog.get_logger(__name__)


def stage_files(workspace_id: UUID, items: Sequence[Item], *, is_outbound: bool) -> list[dict[str, Any]]:
    """Store the files and tell the agent's inbox of each; `{"uri", "name", "mimeType", "size"}` in order.

    All of them or none: a client that repeats a failed upload doubles nothing. `is_outbound`: from the agent
    to the user, so the inbox hears nothing. Raises TooManyRequests, TooLarge, NotFound, Internal.
    """
    _check_quota(workspace_id, items)
    prepared: Prepared | None = None
    phase = "prepare"
    try:
        prepared = files.prepare_batch(workspace_id, items, is_outbound=is_outbound)
        phase = "insert"
        with transaction.atomic(durable=True):
            files.insert_batch(prepared)
            staged = _described(prepared)
            if not is_outbound:
                phase = "announce"
                entries = [(f"{UPLOAD_METHOD}: {one['name']}", one) for one in staged]
                log_received_together(workspace_id=workspace_id, method=UPLOAD_METHOD, entries=entries)
    except (DatabaseError, InterfaceError, StorageError, InvalidItem) as error:
        if prepared is not None:
            files.discard(prepared)
        log.error(
            "pending_upload.stage_failed",
            workspace_id=str(workspace_id),
            phase=phase,
            files=len(items),
            error=f"{type(error).__name__}: {error}",
        )
        raise _answer(error, workspace_id) from error
    for one in staged:
        log.info(
            "pending_upload.staged",
            workspace_id=str(workspace_id),
            file_id=one["file_id"],
            size=one["size"],
            name=one["name"],
            mimetype=one["mimeType"],
            storage=prepared.storage,
        )
    return [{key: value for key, value in one.items() if key != "file_id"} for one in staged]


def _check_quota(workspace_id: UUID, items: Sequence[Item]) -> None:
    """Best effort, without a lock: two batches at once may both pass."""
    limit = settings.PENDING_UPLOADS_MAX_BYTES_PER_WORKSPACE
    if not limit:
        return
    used = files.waiting_bytes(workspace_id)
    if used + sum(item.size for item in items) > limit:
        raise TooManyRequests(
            "too many bytes wait for this workspace's agent; retry when it has fetched them",
            headers={"Retry-After": str(QUOTA_RETRY_S)},
            limit_bytes=limit,
            used_bytes=used,
        )


def _described(prepared: Prepared) -> list[dict[str, Any]]:
    return [
        {
            "file_id": str(one.file_id),
            "uri": pending_uri(prepared.workspace_id, one.file_id),
            "name": one.item.filename,
            "mimeType": one.item.mimetype,
            "size": one.item.size,
        }
        for one in prepared.items
    ]


def _answer(error: Exception, workspace_id: UUID) -> DomainError:
    if isinstance(error, ItemTooLarge):
        return TooLarge("file exceeds per-file limit", max=MAX_FILE_BYTES)
    if isinstance(error, IntegrityError) and not Workspace.objects.filter(pk=workspace_id).exists():
        return NotFound("workspace not found")  # purged between the look-up and the insert
    return Internal("could not stage files")
