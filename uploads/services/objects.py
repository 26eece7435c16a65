"""Objects without a row: of files that were swept, and of uploads that came to nothing.

Source: docs/reference/uploads.md, Objects.
"""

from __future__ import annotations

import time

import structlog
from django.db import connection

from uploads.models import ObjectGC

log = structlog.get_logger(__name__)

CLAIMED = 1000  # what one request to the store may remove
CYCLE_S = 30.0

# A claim is the next due time: whoever dies with it loses it. Delays double from two minutes to six hours.
_CLAIM = """
UPDATE pending_upload_object_gc SET attempts = attempts + 1,
    not_before = statement_timestamp()
                 + least(power(2, least(attempts + 1, 20)) * interval '1 minute', interval '6 hours')
WHERE object_key IN (SELECT object_key FROM pending_upload_object_gc WHERE not_before <= statement_timestamp()
                     ORDER BY not_before LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING object_key
"""


def remove_objects() -> bool:
    """Remove every object that is due, for at most 30 s; False when the store kept one."""
    ends = time.monotonic() + CYCLE_S
    is_clean = True
    while keys := _claim():
        from uploads.storage.s3 import delete_objects  # as in uploads.storage: only where it is used

        left = delete_objects(keys)
        ObjectGC.objects.filter(object_key__in=[key for key in keys if key not in left]).delete()
        for key, reason in left.items():
            is_clean = False
            ObjectGC.objects.filter(object_key=key).update(last_error=reason[:500])
            log.warning("pending_upload.object_kept", object_key=key, error=reason)
        if len(keys) < CLAIMED or time.monotonic() > ends:
            break
    return is_clean


def _claim() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, [CLAIMED])
        return [key for (key,) in cursor.fetchall()]
