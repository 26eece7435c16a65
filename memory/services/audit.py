"""What leaves a line in the author's feed: writes that the whole org reads, and writes of agents' tools.

Source: docs/reference/memory.md, Feed.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, transaction

from activity.services import log_activity
from activity.tally import tally
from memory_store.contract import sha256, uuid_or_none

log = structlog.get_logger(__name__)


def wrote_for_org(author_id: UUID, memory_id: str, namespace: str, stored: str) -> None:
    _noted(author_id, "memory_write_global", memory_id, namespace, content_sha256=sha256(stored))


def edited_for_org(author_id: UUID, memory_id: str, namespace: str, stored: str) -> None:
    _noted(
        author_id,
        "memory_edit_global",
        memory_id,
        namespace,
        content_sha256=sha256(stored),
        reason="edited",
    )


def deleted_for_org(author_id: UUID, memory_id: str, namespace: str) -> None:
    _noted(author_id, "memory_delete_global", memory_id, namespace)


def used_by_tool(author_id: UUID, activity_type: str, memory_id: str, namespace: str) -> None:
    """So that an open canvas sees what an agent does by its tools."""
    verb = "forgot" if activity_type == "memory_delete" else "remembered"
    _logged(
        workspace_id=author_id,
        activity_type=activity_type,
        source_id=author_id,
        target_id=uuid_or_none(memory_id),
        method=namespace,
        summary=f"{verb} in {namespace}",
        request_body={"memory_id": memory_id},
    )


def _noted(author_id: UUID, activity_type: str, memory_id: str, namespace: str, **more: str) -> None:
    body = {"memory_id": memory_id, "namespace": namespace, **more}
    _logged(workspace_id=author_id, activity_type=activity_type, source_id=author_id, request_body=body)


def _logged(**line: Any) -> None:
    """In the writer's transaction where there is one; what cannot be logged never undoes the write."""
    try:
        with transaction.atomic():
            log_activity(announce=True, **line)
    except DatabaseError:
        tally.add("molecule_memory_audit_failures_total")
        log.exception(
            "memory.not_audited", workspace_id=str(line["workspace_id"]), kind=line["activity_type"]
        )
