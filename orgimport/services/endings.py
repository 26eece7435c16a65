"""Every import that was told to have started is told to have ended, also when its process was killed.

Source: docs/reference/orgimport.md, Events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import structlog
from django.db import DatabaseError, InterfaceError

from activity.events import EventType, log_event
from activity.models import StructureEvent
from config.locks import try_lock

log = structlog.get_logger(__name__)

LOOKS_BACK = timedelta(days=7)
_ENDS = (EventType.ORG_IMPORT_COMPLETED, EventType.ORG_IMPORT_FAILED)


@contextmanager
def running(import_id: UUID) -> Iterator[None]:
    """Nobody takes this import for abandoned within the block, or before its process is gone.

    What is told of an import never fails it: without a database it goes on, and fails by itself.
    """
    with ExitStack() as held:
        with suppress(psycopg.Error, DatabaseError, InterfaceError):
            held.enter_context(try_lock(_lock(import_id)))
        yield


def _lock(import_id: UUID | str) -> str:
    return f"org-import:{import_id}"


def end_abandoned(now: datetime) -> int:
    """Tell of imports whose process is gone that they have failed; returns of how many."""
    events = StructureEvent.objects.filter(workspace_id=None, created_at__gt=now - LOOKS_BACK)
    started = events.filter(event_type=EventType.ORG_IMPORT_STARTED).values_list("payload", flat=True)
    ended = set(events.filter(event_type__in=_ENDS).values_list("payload__import_id", flat=True))
    return sum(_ended(one) for one in started if one.get("import_id") and one["import_id"] not in ended)


def _ended(started: dict[str, str]) -> bool:
    import_id = started["import_id"]
    with try_lock(_lock(import_id)) as is_gone:
        if not is_gone or _has_ended(import_id):  # the process goes on, or has told it meanwhile
            return False
        log_event(EventType.ORG_IMPORT_FAILED, {**started, "error": "its process ended in the middle"})
    log.warning("import.abandoned", import_id=import_id, name=started.get("name"))
    return True


def _has_ended(import_id: str) -> bool:
    ends = StructureEvent.objects.filter(workspace_id=None, event_type__in=_ENDS)
    return ends.filter(payload__import_id=import_id).exists()
