"""What is owed to the store of records and must not be lost while it is away.

An entry is written in the transaction that owes it and worked off by whoever comes first: claimed by moving
its due time, called without a transaction, deleted when the store has it. Every entry may be delivered twice.
Source: docs/reference/memory.md, Outbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

import structlog
from django.db import DatabaseError, transaction
from django.utils import timezone

from config.jobs import Job, enqueue
from memory import config
from memory.backends import backend
from memory.models import OutboxEntry
from memory.services import records
from memory_store.contract import Code, StoreError, Write, write_from, write_json

log = structlog.get_logger(__name__)

BATCH = 50
LEASE = timedelta(seconds=60)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30, 3600
GIVEN_UP_AFTER = timedelta(days=7)
ERROR_CHARS = 500


def commit_later(namespace: str, write: Write) -> OutboxEntry:
    """An entry to be stored; `write` has an id, so that a second delivery changes nothing."""
    return OutboxEntry(op=OutboxEntry.Op.COMMIT, namespace=namespace, payload=write_json(write))


def forget_purged(workspace_ids: Iterable[UUID]) -> None:
    """Owe the store the end of the purged workspaces' own namespaces, in the purge's transaction."""
    if not config.is_wired():
        return
    names = [f"workspace:{one}" for one in workspace_ids]
    OutboxEntry.objects.filter(op=OutboxEntry.Op.COMMIT, namespace__in=names).delete()
    OutboxEntry.objects.bulk_create(
        [OutboxEntry(op=OutboxEntry.Op.DELETE_NAMESPACE, namespace=name) for name in names],
        ignore_conflicts=True,
    )
    ring()


def ring() -> None:
    """Have it worked off at once; the sweep comes anyway."""
    enqueue(Job.MEMORY_DELIVER)


def deliver() -> int:
    """Work off what is due; how many entries the store has now."""
    done = 0
    while config.is_wired() and (claimed := _claim()):
        for entry in claimed:
            done += _delivered(entry)
    return done


def _claim() -> list[OutboxEntry]:
    now = timezone.now()
    with transaction.atomic():
        due = OutboxEntry.objects.filter(next_attempt_at__lte=now).order_by("next_attempt_at", "pk")
        claimed = list(due.select_for_update(skip_locked=True)[:BATCH])
        ids = [entry.pk for entry in claimed]
        OutboxEntry.objects.filter(pk__in=ids).update(next_attempt_at=now + LEASE)
    return claimed


def _delivered(entry: OutboxEntry) -> bool:
    try:
        if entry.op == OutboxEntry.Op.COMMIT:
            records.put(entry.namespace, write_from(entry.payload), surface="outbox")
        else:
            _delete(entry.namespace)
    except StoreError as error:
        _failed(entry, error)
        return False
    except DatabaseError as error:  # the store in this database refuses it: the others shall not wait
        _failed(entry, StoreError(Code.INTERNAL, type(error).__name__))
        return False
    OutboxEntry.objects.filter(pk=entry.pk).delete()
    return True


def _delete(namespace: str) -> None:
    records.forget_ensured(namespace)
    try:
        backend().delete_namespace(namespace)
    except StoreError as error:
        if error.code != Code.NOT_FOUND:
            raise


def _failed(entry: OutboxEntry, error: StoreError) -> None:
    now = timezone.now()
    about = {"op": entry.op, "namespace": entry.namespace, "code": str(error.code), "reason": error.message}
    if entry.created_at < now - GIVEN_UP_AFTER:
        OutboxEntry.objects.filter(pk=entry.pk).delete()
        log.error("memory.outbox_given_up", **about)
        return
    pause_s = min(FIRST_PAUSE_S * 2 ** min(entry.attempts, 10), LONGEST_PAUSE_S)
    OutboxEntry.objects.filter(pk=entry.pk).update(
        attempts=entry.attempts + 1,
        next_attempt_at=now + timedelta(seconds=pause_s),
        last_error=f"{error.code}: {error.message}"[:ERROR_CHARS],
    )
    log.warning("memory.outbox_waits", attempts=entry.attempts + 1, pause_s=pause_s, **about)
