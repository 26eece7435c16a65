"""Rows deleted by age, in bounded batches. Source: docs/reference/activity.md, Retention."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from activity.counters import count

BATCH = 10_000
UNDELIVERED_DAYS = 365  # nothing unread is deleted earlier, whatever the settings say

# Kept beyond their age: what a polling agent has not acknowledged, and the newest message of every inbox, so
# that an idle agent's cursor stays valid. `since` moves past what was kept: no batch reads it again.
_PRUNE_ACTIVITY = """
WITH due AS (
    SELECT a.id, a.created_at FROM activity_logs a
    WHERE a.created_at < %(soft)s AND a.created_at >= %(since)s AND (
        a.activity_type <> 'a2a_receive'
        OR (a.created_at < %(hard)s
            OR NOT EXISTS (SELECT 1 FROM workspaces w WHERE w.id = a.workspace_id
                           AND w.delivery_mode = 'poll' AND w.status <> 'removed')
            OR EXISTS (SELECT 1 FROM inbox_delivery_state s WHERE s.workspace_id = a.workspace_id
                       AND s.last_acked_seq >= a.seq))
        AND EXISTS (SELECT 1 FROM activity_logs newer WHERE newer.workspace_id = a.workspace_id
                    AND newer.activity_type = 'a2a_receive' AND newer.seq > a.seq))
    ORDER BY a.created_at LIMIT %(batch)s FOR UPDATE OF a SKIP LOCKED),
gone AS (DELETE FROM activity_logs WHERE id IN (SELECT id FROM due) RETURNING 1)
SELECT (SELECT count(*) FROM gone), (SELECT max(created_at) FROM due)
"""
_PRUNE_EVENTS = """
WITH due AS (SELECT id, created_at FROM structure_events
             WHERE created_at < %(soft)s AND created_at >= %(since)s
             ORDER BY created_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM structure_events WHERE id IN (SELECT id FROM due) RETURNING 1)
SELECT (SELECT count(*) FROM gone), (SELECT max(created_at) FROM due)
"""
_BEGINNING = datetime.fromisoformat("0001-01-01T00:00:00+00:00")


def prune(now: datetime) -> dict[str, int]:
    """Delete what is older than its retention; returns how many rows of which table. Every batch commits."""
    soft_days = settings.ACTIVITY_RETENTION_DAYS
    hard_days = max(settings.ACTIVITY_HARD_RETENTION_DAYS, UNDELIVERED_DAYS, soft_days)
    limits = {"soft": _before(now, soft_days), "hard": _before(now, hard_days)}
    pruned = {"activity_logs": _in_batches(_PRUNE_ACTIVITY, limits, counted=True), "structure_events": 0}
    event_days = settings.STRUCTURE_EVENTS_RETENTION_DAYS
    if event_days:
        pruned["structure_events"] = _in_batches(_PRUNE_EVENTS, {"soft": _before(now, event_days)})
    return pruned


def _before(now: datetime, days: int) -> datetime:
    """A retention longer than the calendar keeps everything."""
    try:
        return now - timedelta(days=days)
    except OverflowError:
        return _BEGINNING


def _in_batches(statement: str, limits: dict[str, datetime], *, counted: bool = False) -> int:
    total: int = 0
    since = _BEGINNING
    while True:
        values: dict[str, Any] = {**limits, "since": since, "batch": BATCH}
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, values)
            deleted, last = cursor.fetchone()
            if counted and deleted:
                count("molecule_activity_pruned_total", deleted)
        total += deleted
        if deleted < BATCH:
            return total
        since = last
