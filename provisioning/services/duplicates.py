"""Repair of leaks: read once, plan, and remove the copies nobody needs, a few at a time.

A plan is applied only as long as it is still true. Source: docs/reference/provisioning.md, Repair of leaks.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Count, OuterRef, Subquery
from django.utils import timezone

from access.services import secrets_by_workspace
from activity.models import ActivityLog
from config.errors import Conflict, DomainError, Unavailable
from config.evt import evt
from config.locks import lock_in_transaction, outside_transaction, try_lock
from memory.services import holdings
from provisioning import dispatch
from provisioning.backends.base import BackendError, Compute
from provisioning.duplicate_rules import (
    CleanupPlan,
    Facts,
    Member,
    Options,
    Row,
    candidates,
    make_plan,
    verdicts,
)
from provisioning.services.teardown import BUDGET_S, teardown
from workspaces.models import Workspace
from workspaces.services import remove_workspace
from workspaces.services.crud import TREE_LOCK

log = structlog.get_logger(__name__)

AT_ONCE = 3
DEFAULT_MAX = 20
LOCK = "cleanup-duplicates"
_FIELDS = (
    "id",
    "parent_id",
    "name",
    "status",
    "tier",
    "runtime",
    "created_at",
    "last_heartbeat_at",
    "active_tasks",
    "generation",
)


@dataclass
class Outcome:
    """What a cleanup did. `pending` were removed and owe their stop; `leftovers` is compute of
    theirs that runs, None when nobody could tell.
    """

    removed: list[UUID] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    pending: list[UUID] = field(default_factory=list)
    leftovers: list[str] | None = field(default_factory=list)
    freed_vcpus: float = 0.0
    remaining: int = 0


def plan_cleanup(options: Options, *, now: datetime | None = None) -> CleanupPlan:
    """Read every living workspace once and judge the copies; changes nothing.

    Raises Unavailable when the backend cannot tell what runs: a plan that guesses frees nothing.
    """
    now = now or timezone.now()
    rows = [Row(*values) for values in Workspace.objects.live().order_by("pk").values_list(*_FIELDS)]
    wanted = candidates(rows, options, now)
    plan = make_plan(rows, _facts(wanted, now), options, now)
    fields = {"plan": plan.fingerprint, "groups": len(plan.groups), "stale": len(plan.stale)}
    evt("cleanup.plan", {**fields, "verdicts": dict(verdicts(plan))})
    return plan


def clean_up_duplicates(
    options: Options,
    *,
    fingerprint: str,
    limit: int = DEFAULT_MAX,
    ids: Sequence[UUID] | None = None,
    actor: str,
    budget_s: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    goes_on: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Remove up to `limit` of what the plan `fingerprint` calls removable (of `ids`, when given).

    `goes_on` is asked before every few. Safe to repeat. Raises Conflict when the plan is no longer true,
    names what it does not remove, or another cleanup runs; Unavailable when nobody can tell what runs.
    """
    outside_transaction()
    with try_lock(LOCK) as mine:
        if not mine:
            raise Conflict("another cleanup is running")
        plan = plan_cleanup(options)
        if plan.fingerprint != fingerprint:
            raise Conflict("the plan has changed; look at the new one", plan=plan.fingerprint)
        wanted = _chosen(plan, ids)
        return _apply(wanted[:limit], len(wanted), actor, budget_s, on_progress, goes_on)


def _chosen(plan: CleanupPlan, ids: Sequence[UUID] | None) -> list[Member]:
    removable = plan.removable
    if ids is None:
        return removable
    unknown = set(ids) - {member.row.id for member in removable}
    if unknown:
        named = sorted(str(one) for one in unknown)
        raise Conflict("the plan does not remove all of these workspaces", ids=named)
    return [member for member in removable if member.row.id in set(ids)]


def _apply(
    members: Sequence[Member],
    wanted: int,
    actor: str,
    budget_s: float | None,
    on_progress: Callable[[int, int], None],
    goes_on: Callable[[], bool],
) -> Outcome:
    outcome = Outcome()
    deadline = time.monotonic() + budget_s if budget_s else None
    for start in range(0, len(members), AT_ONCE):
        left = deadline - time.monotonic() if deadline else BUDGET_S
        if left <= 0 or not goes_on():
            break
        batch = [member for member in members[start : start + AT_ONCE] if _remove(member, actor, outcome)]
        teardown([member.row.id for member in batch], budget_s=min(left, BUDGET_S))
        on_progress(len(outcome.removed) + len(outcome.failures), len(members))
    outcome.remaining = wanted - len(outcome.removed)
    _account(members, outcome)
    return outcome


def _remove(member: Member, actor: str, outcome: Outcome) -> bool:
    """The delete of one leaf, if it still is what the plan saw."""
    row = member.row
    try:
        with transaction.atomic():
            lock_in_transaction(TREE_LOCK)  # before the row, as every change of the tree takes them
            unchanged = Workspace.objects.at(row.id, row.generation).filter(
                status=row.status, active_tasks=row.active_tasks
            )
            if not unchanged.select_for_update().exists():
                raise Conflict("it has changed since the plan")
            remove_workspace(workspace_id=row.id, confirmed=False)
    except DomainError as error:
        outcome.failures.append({"workspace_id": str(row.id), "error": error.text})
        return False
    outcome.removed.append(row.id)
    fields = {
        "workspace_id": str(row.id),
        "name": row.name,
        "parent_id": str(row.parent_id or ""),
        "kept_id": str(member.keeper_id or ""),
        "reason": member.reason,
        "actor": actor,
    }
    evt("cleanup.removed", fields)
    return True


def _account(members: Sequence[Member], outcome: Outcome) -> None:
    """What still runs of the removed ones, asked anew, and what the others held."""
    gone = set(outcome.removed)
    owing = Workspace.objects.filter(pk__in=gone, cleanup_pending=True)
    outcome.pending = sorted(owing.values_list("pk", flat=True))
    try:
        left = [one for one in _running() if one.workspace_id in gone]
    except Unavailable:
        outcome.leftovers = None
        return
    outcome.leftovers = sorted(one.compute_id for one in left)
    freed = gone - {one.workspace_id for one in left} - set(outcome.pending)
    outcome.freed_vcpus = sum(one.facts.vcpus for one in members if one.row.id in freed)


def _facts(ids: Iterable[UUID], now: datetime) -> dict[UUID, Facts]:
    """Six questions, however many candidates there are."""
    wanted = list(ids)
    if not wanted:
        return {}
    secrets, memories = secrets_by_workspace(wanted), holdings(wanted)
    compute: dict[UUID, list[Compute]] = defaultdict(list)
    for one in _running():
        compute[one.workspace_id].append(one)
    feed = ActivityLog.objects.filter(workspace_id=OuterRef("pk")).order_by()
    recent = feed.filter(created_at__gt=now - timedelta(hours=24)).values("workspace_id")
    rows = Workspace.objects.filter(pk__in=wanted).values_list(
        "pk",
        Subquery(feed.order_by("-created_at").values("created_at")[:1]),
        Subquery(recent.annotate(number=Count("pk")).values("number")),
    )
    return {
        pk: Facts(
            last_activity_at=last,
            activity_24h=number or 0,
            holds=frozenset(
                {f"secret {key}" for key in secrets.get(pk, ())}
                | {f"memory {key}" for key in memories.get(pk, ())}
            ),
            compute_ids=tuple(one.compute_id for one in compute[pk]),
            compute_state=compute[pk][0].state if compute[pk] else "",
            vcpus=sum(one.vcpus or 0.0 for one in compute[pk]),
        )
        for pk, last, number in rows
    }


def _running() -> list[Compute]:
    if not dispatch.has_provisioner():
        return []
    try:
        return dispatch.list_managed()
    except Exception as error:
        log.warning("cleanup.compute_unknown", error=getattr(error, "detail", "") or str(error))
        text = error.safe_message if isinstance(error, BackendError) else "what runs could not be listed"
        raise Unavailable(text) from error
