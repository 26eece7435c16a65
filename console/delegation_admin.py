"""The operators' pages about delegations: what is stuck or late comes first; it is ended or sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import admin
from django.contrib.admin import SimpleListFilter
from django.core.exceptions import PermissionDenied
from django.db.models import Case, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Now
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils import timezone

from config.admin import is_confined
from console.charts import delegation_charts
from console.confirmation import Preview, Subject, confirm, digest
from console.object_pages import ObjectPage, age, page_of, table
from console.services.audit import Asked, Told
from delegations import services
from delegations.models import IN_FLIGHT, Delegation, Status
from delegations.previews import shortened
from workspaces.models import Workspace

STATE = "state"
ENDED = ("failed", "completed")
_STATES: dict[str, tuple[str, Q]] = {
    "stuck": ("Stuck", Q(status=Status.STUCK)),
    "overdue": ("Overdue", Q(status__in=IN_FLIGHT, deadline__lt=Now())),
    "failed": ("Failed", Q(status=Status.FAILED)),
    "completed": ("Completed", Q(status=Status.COMPLETED)),
}
_URGENCY = Case(
    When(status=Status.STUCK, then=Value(0)), When(deadline__lt=Now(), then=Value(1)), default=Value(2)
)


@dataclass(frozen=True)
class Verb:
    label: str
    says: str
    does: Callable[[Delegation, Asked], Told]
    is_dangerous: bool = False


def _resolve(row: Delegation, asked: Asked) -> Told:
    services.fail_delegation(delegation_id=row.pk, reason=asked.reason, actor=asked.actor)
    return Told("It has failed, and its caller is told.")


def _retry(row: Delegation, asked: Asked) -> Told:
    services.requeue_delegation(delegation_id=row.pk, reason=asked.reason, actor=asked.actor)
    return Told("The task is in the agent's queue once more.")


def _nudge(row: Delegation, asked: Asked) -> Told:
    services.nudge_delegation(delegation_id=row.pk, actor=asked.actor)
    return Told("Rung again for it.")


VERBS: dict[str, Verb] = {
    "resolve": Verb(
        "Resolve", "It ends as failed; its caller is told once, with your reason.", _resolve, True
    ),
    "retry": Verb(
        "Retry", "The original task goes into the agent's queue once more, with time to be done.", _retry
    ),
    "nudge": Verb("Nudge", "What waits to be sent is rung for again; nothing is sent twice.", _nudge),
}


class StateFilter(SimpleListFilter):
    """What is open unless something else is asked for: the whole ledger is never read."""

    title, parameter_name = "state", STATE

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return [(key, label) for key, (label, _) in _STATES.items()]

    def choices(self, changelist: Any) -> Iterator[Any]:
        everything = super().choices(changelist)
        yield {**next(everything), "display": "In flight"}
        yield from everything

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delegation]) -> QuerySet[Delegation]:
        wanted = _STATES.get(self.value() or "")
        return queryset.filter(wanted[1] if wanted else Q(status__in=IN_FLIGHT))


@admin.register(Delegation)
class DelegationAdmin(ObjectPage[Delegation]):
    of_workspace = ("caller_id", "callee_id")
    list_display = (
        "task",
        "shown",
        "caller",
        "callee",
        "heartbeat",
        "due",
        "retry_count",
        "error",
        "created_at",
    )
    sortable_by = ()
    list_before_template = "console/delegation_charts.html"
    list_filter = (StateFilter, "source", "delivery")
    search_fields = ("delegation_id",)
    search_help_text = "the whole id of a delegation, or of one of its workspaces"
    fields = (
        "delegation_id",
        ("status", "shown"),
        ("caller", "callee"),
        ("caller_id", "callee_id"),
        ("source", "delivery"),
        ("queue_id", "retry_count"),
        ("heartbeat", "due"),
        "task_preview",
        "result_preview",
        "error_detail",
    )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        charts = delegation_charts(timezone.now()) if not is_confined(request) else []
        answer: HttpResponse = super().changelist_view(request, {**(extra_context or {}), "charts": charts})
        return answer

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delegation]:
        def of(one: str, field: str) -> Subquery:
            return Subquery(Workspace.objects.filter(pk=OuterRef(one)).values(field)[:1])

        rows: QuerySet[Delegation] = super().get_queryset(request)
        return rows.annotate(
            caller_name=of("caller_id", "name"),
            callee_name=of("callee_id", "name"),
            callee_heard_at=of("callee_id", "last_heartbeat_at"),
        )

    def get_ordering(self, request: HttpRequest) -> Any:
        """Ended ones by age, which an index serves; open ones by how much they need somebody."""
        if request.GET.get(STATE) in ENDED:
            return ("-created_at",)
        return (_URGENCY.asc(), "deadline")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Delegation], search_term: str
    ) -> tuple[QuerySet[Delegation], bool]:
        """By ids alone: looking through the tasks would read the whole ledger."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(pk=term)
        if one := _uuid(term):
            found |= Q(caller_id=one) | Q(callee_id=one)
        return queryset.filter(found), False

    @admin.display(description="task")
    def task(self, row: Delegation) -> str:
        return shortened(row.task_preview, 80) or row.pk

    @admin.display(description="from")
    def caller(self, row: Any) -> str:
        return row.caller_name or str(row.caller_id)

    @admin.display(description="to")
    def callee(self, row: Any) -> str:
        return row.callee_name or str(row.callee_id)

    @admin.display(description="silent for")
    def heartbeat(self, row: Any) -> str:
        """The last sign of life, beside how long a silence makes it stuck."""
        if row.is_terminal:
            return "—"
        sent = row.dispatched_at or row.created_at  # a silence from before the task is not held against it
        heard = row.last_heartbeat or (max(row.callee_heard_at, sent) if row.callee_heard_at else None)
        return f"{age(heard)} of {settings.DELEGATION_STUCK_THRESHOLD_S // 60}m"

    @admin.display(description="deadline")
    def due(self, row: Delegation) -> str:
        now = timezone.now()
        if row.is_terminal:
            return "—"
        return f"in {age(now, row.deadline)}" if row.deadline > now else f"{age(row.deadline, now)} over"

    @admin.display(description="error", empty_value="—")
    def error(self, row: Delegation) -> str | None:
        return shortened(row.error_detail or "", 80) or None

    def get_urls(self) -> list[Any]:
        acts = path(
            "<str:delegation_id>/act/<slug:name>/",
            self.admin_site.admin_view(self.act),
            name="delegations_delegation_act",
        )
        return [acts, *super().get_urls()]

    def buttons(self, request: HttpRequest, row: Delegation) -> list[dict[str, Any]]:
        if row.is_terminal or not self.has_operate_permission(request):
            return []
        return [
            {
                "label": verb.label,
                "url": reverse("admin:delegations_delegation_act", args=[row.pk, name]),
                "is_dangerous": verb.is_dangerous,
            }
            for name, verb in VERBS.items()
        ]

    def tables(self, request: HttpRequest, row: Delegation) -> list[dict[str, Any]]:
        steps = [
            ("asked", row.created_at),
            ("sent", row.dispatched_at),
            ("last own heartbeat", row.last_heartbeat),
            ("deadline", row.deadline),
            ("lease of the sender until", row.lease_expires_at),
            ("ended", row.finished_at),
            ("caller told", row.notified_at),
        ]
        at = [(name, f"{when:%Y-%m-%d %H:%M:%S}" if when else "—") for name, when in steps]
        return [table("How it went", ("Step", "When (UTC)"), at)]

    def act(self, request: HttpRequest, delegation_id: str, name: str) -> HttpResponse:
        row = self.get_object(request, delegation_id)
        verb = VERBS.get(name)
        if verb is None or row is None:
            raise Http404
        if not self.has_operate_permission(request):
            raise PermissionDenied
        preview = Preview(
            title=f"{verb.label} the delegation",
            says=verb.says,
            headers=("Task", "Status", "Silent for", "Deadline"),
            rows=[(self.task(row), row.shown, age(row.last_heartbeat), self.due(row))],
            seen=digest([row.pk, row.status, row.retry_count]),
            refusal="It has ended." if row.is_terminal else "",
            is_dangerous=verb.is_dangerous,
        )
        return confirm(
            request,
            self.admin_site,
            preview,
            verb=f"delegation.{name}",
            subject=Subject("delegation", row.pk, self.task(row)),
            does=lambda asked: verb.does(row, asked),
            back=page_of(row),
        )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
