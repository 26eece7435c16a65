"""The first page: what there is, what is wrong, and the list behind each number.

Source: docs/reference/console.md, Home.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import redis
from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from activity.supervision import subsystems
from config.admin import is_confined, within
from config.jobs import probe_name, queues
from config.valkey import client
from console.charts import fleet_charts
from console.models import OperatorAction
from console.object_pages import age, table
from console.tree import picture
from console.workspace_filters import trouble
from delegations.models import Delegation, Status
from provisioning.models import ProvisionRun
from uploads.models import PendingUpload
from workspaces import models as workspaces
from workspaces.models import Workspace

RECENT = 10
RUNS = 15


@dataclass(frozen=True)
class Number:
    """`is_bad` ones should be 0."""

    label: str
    value: int | str
    url: str
    is_bad: bool = False


@dataclass(frozen=True)
class Section:
    title: str
    numbers: list[Number]


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Adds the figures to the page of who may see the lists behind them: those of the orgs they may see."""
    if not request.user.has_perms(["workspaces.view_workspace", "delegations.view_delegation"]):
        return context
    context["sections"] = [
        Section("Trouble", [*_workspace_trouble(request), *_delegation_trouble(request)]),
        Section("Workspaces by status", list(_by_status(request))),
        Section("Work", list(_work(request))),
    ]
    context["tree"] = picture()
    context["home_tables"] = [_starts(request)]
    if not is_confined(request):
        context["charts"] = fleet_charts(timezone.now())
        context["home_tables"] += [_jobs(), _operators()]
    return context


def _workspace_trouble(request: HttpRequest) -> Iterable[Number]:
    rows = within(Workspace.objects.all(), request, "pk")
    found = rows.aggregate(
        stale=Count("pk", filter=trouble("stale")),
        stuck=Count("pk", filter=trouble("stuck")),
        cleanup=Count("pk", filter=trouble("cleanup")),
    )
    found["orphaned"] = rows.filter(trouble("orphaned")).count()
    labels = {
        "stale": "silent workspaces",
        "stuck": "starts past their deadline",
        "orphaned": "below a removed parent",
        "cleanup": "removed, not stopped yet",
    }
    for name, label in labels.items():
        yield Number(label, found[name], f"{_list(Workspace)}?trouble={name}", is_bad=True)


def _delegation_trouble(request: HttpRequest) -> Iterable[Number]:
    found = _in_flight(request).aggregate(
        stuck=Count("pk", filter=Q(status=Status.STUCK)),
        overdue=Count("pk", filter=Q(deadline__lt=Now())),
    )
    for name, value in found.items():
        yield Number(f"{name} delegations", value, f"{_list(Delegation)}?state={name}", is_bad=True)


def _in_flight(request: HttpRequest) -> QuerySet[Delegation]:
    return within(Delegation.objects.in_flight(), request, "caller_id", "callee_id")


def _by_status(request: HttpRequest) -> Iterable[Number]:
    rows = within(Workspace.objects.all(), request, "pk")
    counted = dict(rows.values_list("status").annotate(Count("pk")))
    for status in workspaces.Status:
        yield Number(str(status.label), counted.get(status, 0), f"{_list(Workspace)}?status={status}")


def _work(request: HttpRequest) -> Iterable[Number]:
    yield Number("delegations in flight", _in_flight(request).count(), _list(Delegation))
    runs = dict(_open_runs(request).values_list("state").annotate(Count("pk")))
    for state in ("queued", "running"):
        url = f"{_list(ProvisionRun)}?state__exact={state}"
        yield Number(f"starts and stops {state}", runs.get(state, 0), url)
    waiting = within(PendingUpload.objects.filter(acked_at=None), request, "workspace_id")
    staged = waiting.aggregate(number=Count("pk"), size=Sum("size_bytes"))
    mib = (staged["size"] or 0) / 2**20
    yield Number(
        "staged files", f"{staged['number']} ({mib:.1f} MiB)", f"{_list(PendingUpload)}?acked_at__isempty=1"
    )


def _open_runs(request: HttpRequest) -> QuerySet[ProvisionRun]:
    return within(ProvisionRun.objects.open(), request, "workspace_id")


def _starts(request: HttpRequest) -> dict[str, Any]:
    rows = _open_runs(request).order_by("due_at")[:RUNS]
    return table(
        "Under way",
        ("Workspace", "Kind", "State", "Attempts", "Waits since", "Newest step"),
        [
            (
                str(run.workspace_id),
                f"{run.kind} g{run.generation}",
                run.state,
                run.attempts,
                age(run.queued_at),
                run.steps[-1].get("name", "") if run.steps else "—",
            )
            for run in rows
        ],
    )


def _jobs() -> dict[str, Any]:
    """The late ones first."""
    found = sorted(
        subsystems().items(), key=lambda one: (not one[1]["stale"], not one[1]["last_error"], one[0])
    )
    waiting = _waiting()
    return table(
        "Sweeps, loops and queues",
        ("Name", "Last tick", "Every", "", "Waiting", "Last error"),
        [
            (
                name,
                age(one["last_tick_at"]),
                f"{one['expected_interval_seconds']}s",
                "late" if one["stale"] else "ok",
                waiting.get(name, ""),
                one["last_error"] or "—",
            )
            for name, one in found
        ],
    )


def _waiting() -> dict[str, int | str]:
    """Messages of each queue that no worker has taken; its tick, the last probe, tells their age."""
    names = queues()
    try:
        with client().pipeline(transaction=False) as asked:
            for name in names:
                asked.llen(name)
            found: list[int | str] = asked.execute()
    except redis.RedisError:
        found = ["unknown"] * len(names)
    return dict(zip(map(probe_name, names), found, strict=True))


def _operators() -> dict[str, Any]:
    rows = OperatorAction.objects.order_by("-started_at")[:RECENT]
    return table(
        "What operators did last",
        ("When", "Who", "What", "Of", "Outcome"),
        [(age(one.started_at), one.actor, one.verb, one.object_name, one.outcome) for one in rows],
    )


def _list(model: Any) -> str:
    meta = model._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist")
