"""What the sweeps select, they find through an index: none reads a table of 100,000 rows from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from a2a.services.sweeps import sweep_queue
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from provisioning.services import sweeps
from workspaces.services.phantoms import reset_phantom_busy

ROWS = 100_000
LARGE = {"workspaces", "provision_runs", "workspace_lifecycle", "activity_logs"}

# A deployment that has seen much: one workspace in a hundred is there, the others are tombstones.
FLEET = f"""
INSERT INTO workspaces (id, name, tier, status, runtime, last_heartbeat_at, last_error_rate, active_tasks,
    max_concurrent_tasks, uptime_seconds, monthly_spend, generation, cleanup_pending, delivery_mode,
    delivery_mode_explicit, workspace_access, url_source)
SELECT gen_random_uuid(), 'w' || n, 3, CASE WHEN n % 100 = 0 THEN 'online' ELSE 'removed' END, 'langgraph',
    now(), 0, CASE WHEN n % 1000 = 0 THEN 1 ELSE 0 END, 1, 0, 0, 1, false, 'push', false, 'none', 'agent'
FROM generate_series(1, {ROWS}) n;
INSERT INTO provision_runs (id, workspace_id, generation, kind, trigger, backend, state, options, steps,
    requested_by, attempts, started_at, finished_at)
SELECT gen_random_uuid(), id, 1, 'create', '', 'memory', 'succeeded', '{{}}', '[]', '', 1, now(), now()
FROM workspaces;
INSERT INTO workspace_lifecycle (workspace_id, restart_pending, pending_options, auto_restarts, stop_attempts)
SELECT id, false, '{{}}', '[]', 0 FROM workspaces;
INSERT INTO activity_logs (id, workspace_id, activity_type, status, created_at)
SELECT gen_random_uuid(), id, 'task_update', 'ok', now() - interval '1 day' FROM workspaces;
ANALYZE activity_logs, workspaces, provision_runs, workspace_lifecycle;
"""

SWEEPS: dict[str, Callable[[], Any]] = {
    "liveness-backstop": lambda: sweeps.check_liveness(timezone.now()),
    "provision-timeout-sweep": lambda: sweeps.time_out_starts(timezone.now()),
    "parked-compute": lambda: sweeps.stop_parked(timezone.now()),
    "workspace-cleanup": lambda: sweeps.clean_up(timezone.now()),
    "lifecycle-requeue": lambda: sweeps.requeue(timezone.now()),
    "hibernation-monitor": lambda: sweeps.tend_idle(timezone.now()),
    "phantom-busy-sweep": lambda: reset_phantom_busy(timezone.now()),
    "compute-reconciler": lambda: sweeps.reconcile(timezone.now()),
    "a2a-queue-sweeper": lambda: sweep_queue(timezone.now()),
    "health-sweep": lambda: sweeps.check_health(timezone.now()),
}


@pytest.fixture
def fleet(db: None) -> Iterator[None]:
    dispatch.wire(InMemoryBackend())
    with connection.cursor() as cursor:
        for statement in FLEET.split(";\n"):
            if statement.strip():
                cursor.execute(statement)
    yield
    dispatch.choose_again()


def whole_reads(plan: dict[str, Any]) -> Iterator[str]:
    """The large tables that a plan reads from end to end."""
    if plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in LARGE:
        yield plan["Relation Name"]
    for child in plan.get("Plans", []):
        yield from whole_reads(child)


def plans(run: Callable[[], Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The statements that `run` sends, each with the plan the database has for it now."""
    with CaptureQueriesContext(connection) as captured:
        run()
    for query in captured.captured_queries:
        if query["sql"].startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            with connection.cursor() as cursor:
                cursor.execute("EXPLAIN (FORMAT JSON) " + query["sql"].replace("%", "%%"))
                (explained,) = cursor.fetchone()
            found = explained if isinstance(explained, list) else json.loads(explained)
            yield query["sql"], found[0]["Plan"]


def test_no_sweep_reads_a_large_table_from_end_to_end(fleet):
    slow = {}
    for name, run in SWEEPS.items():
        for sql, plan in plans(run):
            if tables := list(whole_reads(plan)):
                slow[name, sql[:600]] = tables
    assert slow == {}


def test_the_gate_fires_on_a_condition_without_an_index(fleet):
    def run() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id FROM workspaces WHERE uptime_seconds > 5")

    assert [list(whole_reads(plan)) for _, plan in plans(run)] == [["workspaces"]]
