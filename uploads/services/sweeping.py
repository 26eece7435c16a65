"""Files that nobody needs any more: acknowledged and kept long enough, or never fetched and expired.

Each of the two has an index and a statement of its own. Source: docs/reference/uploads.md, Sweep.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import structlog
from django.db import connection, transaction

from activity.counters import count
from activity.tally import tally
from uploads.delivery import staging
from uploads.services.objects import remove_objects

log = structlog.get_logger(__name__)

BATCH = 500
CYCLE_S = 30.0
SWEPT = "molecule_pending_uploads_swept_total"

# The objects of deleted rows are owed from the same commit on.
_DELETE = """
WITH due AS (SELECT file_id FROM pending_uploads WHERE {condition}
             ORDER BY {column} LIMIT %(batch)s FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM pending_uploads WHERE file_id IN (SELECT file_id FROM due) RETURNING object_key),
owed AS (INSERT INTO pending_upload_object_gc (object_key, not_before)
         SELECT object_key, now() FROM gone WHERE object_key IS NOT NULL)
SELECT count(*) FROM gone
"""
_ARMS = {
    "acked": _DELETE.format(condition="acked_at < statement_timestamp() - %(retention)s", column="acked_at"),
    "expired": _DELETE.format(
        condition="acked_at IS NULL AND expires_at < statement_timestamp()", column="expires_at"
    ),
}


class ObjectsLeft(Exception):
    """Some objects could not be removed; they are due again later."""


@dataclass
class Swept:
    """Rows removed, by reason."""

    acked: int = 0
    expired: int = 0


def sweep(ack_retention: timedelta) -> Swept:
    """Delete what is due, batch by batch, for at most 30 s; each batch commits with its count.

    A negative retention counts as none. A failure is counted and raised: what was committed stays deleted.
    """
    if not staging.is_there():
        _say_disabled()
        return Swept()
    try:
        return _sweep(max(ack_retention, timedelta()))
    except Exception as error:
        tally.add(SWEPT, outcome="error")  # kept until a database that is away can be told
        log.error("pending_upload.sweep_failed", error=f"{type(error).__name__}: {error}")
        raise


@cache
def _say_disabled() -> None:
    log.warning("pending_upload.sweep_disabled", reason="the table is not there")


def _sweep(retention: timedelta) -> Swept:
    ends = time.monotonic() + CYCLE_S
    swept = Swept()
    for outcome in _ARMS:
        is_more = True  # the first batch runs however little time there is: every cycle makes progress
        while is_more:
            deleted = _delete_batch(outcome, {"retention": retention, "batch": BATCH})
            setattr(swept, outcome, getattr(swept, outcome) + deleted)
            is_more = deleted == BATCH and time.monotonic() < ends
    is_clean = remove_objects()
    if total := swept.acked + swept.expired:
        log.info("pending_upload.swept", acked=swept.acked, expired=swept.expired, total=total)
    if not is_clean:
        raise ObjectsLeft
    return swept


def _delete_batch(outcome: str, values: dict[str, Any]) -> int:
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(_ARMS[outcome], values)
        deleted: int = cursor.fetchone()[0]
        if deleted:
            count(SWEPT, deleted, outcome=outcome)
    return deleted
