"""How the fleet is now, put on record once a minute.

Source: docs/reference/console.md, Charts.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Count, Q, Sum

from activity.models import MetricCounter
from console.models import FleetSample
from delegations.models import IN_FLIGHT, Delegation

KEPT = timedelta(days=8)
STATE = "delegations."  # and the name of a status: how many were in it
COUNTERS: dict[str, Q] = {  # counted since ever; a chart shows by how much they grew
    "completed": Q(name="molecule_delegation_transitions_total", labels__contains='to="completed"'),
    "failed": Q(name="molecule_delegation_transitions_total", labels__contains='to="failed"'),
    "requests": Q(name="molecule_http_requests_total"),
    "requests_failed": Q(name="molecule_http_requests_total", labels__contains='status="5'),
    "messages_failed": Q(name="molecule_a2a_requests_total")
    & (
        Q(labels__contains='kind="unreachable"')
        | Q(labels__contains='kind="agent_error"')
        | Q(labels__contains='kind="lost_response"')
        | Q(labels__contains='kind="dead"')
    ),
    "jobs_failed": Q(name="molecule_job_runs_total", labels__contains='outcome="error"'),
    "starts_failed": Q(name="molecule_provision_runs_total", labels__contains='result="failed"'),
}


def take_sample(now: datetime) -> None:
    """One row for this moment; rows older than `KEPT` go."""
    states = dict.fromkeys(sorted(IN_FLIGHT), 0)
    states |= dict(Delegation.objects.in_flight().values_list("status").annotate(Count("pk")))
    counted = MetricCounter.objects.aggregate(
        **{name: Sum("value", filter=wanted, default=0) for name, wanted in COUNTERS.items()}
    )
    values = {f"{STATE}{status}": number for status, number in states.items()} | counted
    FleetSample.objects.bulk_create([FleetSample(at=now, values=values)], ignore_conflicts=True)
    FleetSample.objects.filter(at__lt=now - KEPT).delete()
