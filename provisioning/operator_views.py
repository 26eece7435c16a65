"""What operators ask about compute and clean up. Source: docs/reference/provisioning.md, Routes."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from config.errors import BadRequest, Forbidden
from config.http import parsed
from provisioning.duplicate_rules import CleanupPlan, Member, Options, verdicts
from provisioning.serializers import CleanupInput
from provisioning.services.duplicates import Outcome, clean_up_duplicates, plan_cleanup
from provisioning.services.plans import plan_start
from workspaces.views import WorkspaceViewSet

BUDGET_S = 50.0  # of one cleanup over HTTP; what is left is removed by the next one


class PlanViewSet(WorkspaceViewSet):
    """`POST /workspaces/:id/provision-plan`."""

    def create(self, request: Request, **kwargs: Any) -> Response:
        return Response(plan_start(self.workspace))


class DuplicatesViewSet(ViewSet):
    """`/admin/workspaces/duplicates`: the plan, and its application."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if principal_of(request).org_id is not None:
            raise Forbidden("copies are looked for in the whole deployment, not in one org")

    def list(self, request: Request) -> Response:
        return Response(_shown(plan_cleanup(_asked(request))))

    def clean_up(self, request: Request) -> Response:
        given = parsed(CleanupInput, request)
        options = Options(given.get("stale_days"), given["include_live"], given["allow_data_loss"])
        if given["dry_run"]:
            return Response({"dry_run": True, **_shown(plan_cleanup(options))})
        outcome = clean_up_duplicates(
            options,
            fingerprint=given["plan"],
            limit=given["max"],
            ids=given.get("ids"),
            actor=principal_of(request).actor,
            budget_s=BUDGET_S,
        )
        return Response(_told(outcome), status=207 if outcome.failures else 200)


def _asked(request: Request) -> Options:
    days = request.query_params.get("stale_days")
    if days is not None and not (days.isascii() and days.isdecimal() and 1 <= int(days) <= 3650):
        raise BadRequest("stale_days must be a number of days, 1 to 3650")
    return Options(
        stale_days=int(days) if days else None,
        include_live=request.query_params.get("include_live") == "true",
        allow_data_loss=request.query_params.get("allow_data_loss") == "true",
    )


def _shown(plan: CleanupPlan) -> dict[str, Any]:
    return {
        "plan": plan.fingerprint,
        "verdicts": dict(verdicts(plan)),
        "vcpus": sum(member.facts.vcpus for member in plan.removable),
        "groups": [
            {
                "parent_id": group.parent_id,
                "name": group.name,
                "members": [_member(member) for member in group.members],
            }
            for group in plan.groups
        ],
        "stale": [_member(member) for member in plan.stale],
    }


def _member(member: Member) -> dict[str, Any]:
    row, facts = member.row, member.facts
    return {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "tier": row.tier,
        "runtime": row.runtime,
        "created_at": row.created_at,
        "last_heartbeat_at": row.last_heartbeat_at,
        "last_activity_at": facts.last_activity_at,
        "activity_24h": facts.activity_24h,
        "active_tasks": row.active_tasks,
        "children": member.children,
        "compute_ids": facts.compute_ids,
        "compute_state": facts.compute_state,
        "vcpus": facts.vcpus,
        "verdict": member.verdict,
        "reason": member.reason,
    }


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "dry_run": False,
        "removed": outcome.removed,
        "failures": outcome.failures,
        "stops_pending": outcome.pending,
        "leftovers": outcome.leftovers,
        "freed_vcpus": outcome.freed_vcpus,
        "remaining": outcome.remaining,
    }
