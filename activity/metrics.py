"""The Prometheus exposition: shared counters from PostgreSQL, gauges computed from rows, this process's own
figures.

Every series without dynamic labels is there from the start, at 0. Source: docs/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest

from access.credentials import hatch_is_open
from activity.hub import SOCKETS_KEY
from activity.models import BackgroundJob, MetricCounter
from activity.supervision import subsystems
from config.valkey import client


@dataclass(frozen=True)
class Family:
    """One metric family; `initial` are the label texts shown at 0 before anything was counted."""

    name: str
    kind: str
    help: str
    initial: tuple[str, ...] = ()


COUNTERS = [
    Family("molecule_http_requests_total", "counter", "HTTP requests by method, route pattern and status."),
    Family("molecule_http_request_duration_seconds_total", "counter", "Seconds spent answering, in sum."),
    Family("molecule_rate_limited_total", "counter", "Requests refused by a rate limit, by limit."),
    Family("molecule_auth_failures_total", "counter", "401 answers by what the caller had presented."),
    Family(
        "molecule_rate_limit_backend_errors_total",
        "counter",
        "Requests let through because the counters of the rate limits could not be asked.",
        ("",),
    ),
    Family("molecule_job_runs_total", "counter", "Ticks of background jobs by outcome."),
    Family("molecule_events_published_total", "counter", "Frames that were published, by event."),
    Family("molecule_event_publish_failures_total", "counter", "Frames that could not be published.", ("",)),
    Family(
        "molecule_ws_clients_dropped_total",
        "counter",
        "Sockets and streams closed because they read too slowly.",
        ("",),
    ),
    Family("molecule_activity_pruned_total", "counter", "Rows of feeds deleted by age.", ("",)),
    Family(
        "molecule_agent_message_persist_failures_total",
        "counter",
        "Agents' messages to the user that could not be stored.",
        ("",),
    ),
    Family(
        "molecule_phantom_busy_resets_total", "counter", "Silent workspaces no longer shown as busy.", ("",)
    ),
    Family(
        "molecule_pending_uploads_swept_total",
        "counter",
        "Staged uploads removed by the sweeper, and its failed cycles.",
        ('outcome="acked"', 'outcome="error"', 'outcome="expired"'),
    ),
    Family("molecule_workspace_transitions_total", "counter", "Status changes by from, to and trigger."),
    Family(
        "molecule_provision_runs_total", "counter", "Finished start attempts by backend, kind and result."
    ),
    Family("molecule_template_load_errors_total", "counter", "Templates that could not be read, by kind."),
    Family(
        "molecule_org_import_total",
        "counter",
        "Org imports by result.",
        ('result="completed"', 'result="failed"', 'result="partial"'),
    ),
    Family(
        "molecule_org_import_nodes_total",
        "counter",
        "Workspaces of org imports by what became of them.",
        ('outcome="created"', 'outcome="failed"', 'outcome="skipped"'),
    ),
    Family("molecule_restart_dropped_total", "counter", "Automatic restarts not made, by reason."),
    Family("molecule_restart_coalesced_total", "counter", "Restart requests served by a later cycle.", ("",)),
    Family("molecule_a2a_requests_total", "counter", "Messages to agents by what became of them."),
    Family("molecule_a2a_queue_outcomes_total", "counter", "Ends of queued messages."),
    Family("molecule_delegation_transitions_total", "counter", "Changes of delegations by status and cause."),
    Family(
        "molecule_delegation_refused_total", "counter", "Changes of delegations that came too late.", ("",)
    ),
    Family(
        "molecule_delegation_sweeps_total",
        "counter",
        "What the sweep over delegations did.",
        tuple(
            f'outcome="{name}"'
            for name in ("deadline_failed", "error", "redispatched", "reply_error", "stuck")
        ),
    ),
    Family(
        "molecule_scheduler_rows_total",
        "counter",
        "What the scheduler did with schedules.",
        tuple(f'outcome="{name}"' for name in ("claimed", "computed", "errors", "lost", "native", "rung")),
    ),
    Family(
        "molecule_schedule_runs_total",
        "counter",
        "Runs of schedules by what became of them.",
        tuple(f'outcome="{name}"' for name in ("error", "ok", "queued", "refused", "skipped", "stale")),
    ),
    Family("molecule_memory_writes_total", "counter", "Memories stored, by surface, kind and outcome."),
    Family("molecule_memory_searches_total", "counter", "Searches of memories, by path and outcome."),
    Family("molecule_memory_redactions_total", "counter", "Credentials taken out of memories, by label."),
    Family(
        "molecule_memory_plugin_requests_total",
        "counter",
        "Calls of the memory plugin, by route and outcome.",
    ),
    Family(
        "molecule_memory_audit_failures_total",
        "counter",
        "Memories whose line in the feed is missing.",
        ("",),
    ),
    Family("molecule_channel_messages_total", "counter", "Messages of chat channels by what became of them."),
]
HISTOGRAMS = [
    Family(
        "molecule_provision_duration_seconds", "histogram", "Seconds of the steps of a start that went well."
    ),
    Family("molecule_a2a_request_seconds", "histogram", "Seconds until it was known what became of a call."),
]
# Stored as whole microseconds.
MICROSECONDS = {
    "molecule_http_request_duration_seconds_total",
    *(f"{family.name}_sum" for family in HISTOGRAMS),
}

# Filled by higher rooms in ready(): each gives the sample lines of one family, or nothing.
gauges: list[tuple[Family, Callable[[], Iterator[tuple[str, float]]]]] = []

_process = CollectorRegistry()
ProcessCollector(registry=_process)
PlatformCollector(registry=_process)


def render() -> str:
    """The text of `GET /metrics`."""
    lines: list[str] = []
    stored: dict[str, dict[str, float]] = {}
    for row in MetricCounter.objects.order_by("name", "labels"):
        value = row.value / 1_000_000 if row.name in MICROSECONDS else row.value
        stored.setdefault(row.name, {})[row.labels] = value
    for family in COUNTERS:
        samples = dict.fromkeys(family.initial, 0.0) | stored.get(family.name, {})
        lines += _lines(family, samples.items())
    for family in HISTOGRAMS:
        lines += _lines(family, ())
        for part in ("_bucket", "_sum", "_count"):
            lines += _samples(f"{family.name}{part}", stored.get(f"{family.name}{part}", {}).items())
    for family, collect in [*_own_gauges(), *gauges]:
        lines += _lines(family, collect())
    return "\n".join(lines) + "\n" + generate_latest(_process).decode()


def _lines(family: Family, samples: object) -> list[str]:
    head = [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
    return head + _samples(family.name, samples)


def _samples(name: str, samples: object) -> list[str]:
    body = []
    for labels, value in samples:  # type: ignore[attr-defined]
        braces = f"{{{labels}}}" if labels else ""
        shown = int(value) if value == int(value) else repr(value)  # all digits: `%g` keeps six
        body.append(f"{name}{braces} {shown}")
    return body


def _own_gauges() -> list[tuple[Family, Callable[[], Iterator[tuple[str, float]]]]]:
    return [
        (Family("molecule_dev_open", "gauge", "1 while the development hatch is open."), _hatch),
        (Family("molecule_websocket_connections_active", "gauge", "Open sockets, all processes."), _sockets),
        (
            Family("molecule_job_last_success_timestamp_seconds", "gauge", "When a job last succeeded."),
            _successes,
        ),
        (
            Family(
                "molecule_subsystem_stale",
                "gauge",
                "1 while a sweep, loop or queue has not ticked for more than twice its interval.",
            ),
            _stale,
        ),
    ]


def _hatch() -> Iterator[tuple[str, float]]:
    yield "", float(hatch_is_open())


def _sockets() -> Iterator[tuple[str, float]]:
    """Each realtime process keeps its own count alive in Valkey; a dead one's expires."""
    try:
        names = list(client().scan_iter(f"{SOCKETS_KEY}*"))
        counts: list[Any] = client().mget(names) if names else []  # type: ignore[assignment]
    except redis.RedisError:
        return
    yield "", float(sum([int(one) for one in counts if one]))


def _stale() -> Iterator[tuple[str, float]]:
    for name, standing in subsystems().items():
        yield f'name="{name}"', float(standing["stale"])


def _successes() -> Iterator[tuple[str, float]]:
    for job in BackgroundJob.objects.exclude(last_success_at=None).order_by("name"):
        assert job.last_success_at is not None
        yield f'job="{job.name}"', job.last_success_at.timestamp()
