"""The filters of the list of workspaces; each is served by an index or reads one short column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from django.contrib.admin import SimpleListFilter
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest

from workspaces.defaults import known_runtimes
from workspaces.models import ALIVE, EXTERNAL, Status, Workspace

SILENT = timedelta(seconds=210)  # what the liveness sweep calls silent

Lookups = Iterable[tuple[str, str]]


TROUBLES = ("stale", "stuck", "orphaned", "cleanup")


def trouble(name: str) -> Q:
    """The rows in one of `TROUBLES`."""
    match name:
        case "stale":
            silent = Q(last_heartbeat_at__lt=Now() - SILENT) | Q(last_heartbeat_at=None)
            return silent & Q(status__in=ALIVE)
        case "stuck":
            return Q(status=Status.PROVISIONING, provision_deadline_at__lt=Now())
        case "orphaned":
            gone = Workspace.objects.filter(pk=OuterRef("parent_id"), status=Status.REMOVED)
            return ~Q(status=Status.REMOVED) & Q(Exists(gone), parent_id__isnull=False)
        case "cleanup":
            return Q(cleanup_pending=True)
    raise ValueError(name)


class StatusFilter(SimpleListFilter):
    """Tombstones are out of sight unless asked for."""

    title, parameter_name = "status", "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [*((one.value, one.label) for one in Status), ("all", "All, with removed")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        everything = super().choices(changelist)
        yield {**next(everything), "display": "Living"}
        yield from everything

    def queryset(self, request: HttpRequest, queryset: QuerySet[Workspace]) -> QuerySet[Workspace]:
        if self.value() in Status.values:
            return queryset.filter(status=self.value())
        shows_all = self.value() == "all" or request.GET.get(TroubleFilter.parameter_name) == "cleanup"
        return queryset if shows_all else queryset.exclude(status=Status.REMOVED)


class TroubleFilter(SimpleListFilter):
    title, parameter_name = "trouble", "trouble"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [
            ("stale", "Stale: says it runs, and is silent"),
            ("stuck", "Stuck: its start is past its deadline"),
            ("orphaned", "Orphaned: its parent has been removed"),
            ("cleanup", "Cleanup pending: removed, not stopped yet"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Workspace]) -> QuerySet[Workspace]:
        name = self.value()
        return queryset.filter(trouble(name)) if name in TROUBLES else queryset


class RuntimeFilter(SimpleListFilter):
    """The runtimes that this deployment knows: a list of those in use would read every row."""

    title, parameter_name = "runtime", "runtime"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(one, one) for one in sorted({*known_runtimes(), EXTERNAL})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Workspace]) -> QuerySet[Workspace]:
        return queryset.filter(runtime=self.value()) if self.value() else queryset


class TierFilter(SimpleListFilter):
    title, parameter_name = "tier", "tier"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(str(one), f"T{one}") for one in range(1, 5)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Workspace]) -> QuerySet[Workspace]:
        value = self.value()
        return queryset.filter(tier=int(value)) if value in {"1", "2", "3", "4"} else queryset
