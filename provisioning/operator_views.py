"""What operators ask about compute and clean up. Source: docs/reference/provisioning.md, Routes."""

from __future__ import annotations

from typing import Any

import structlog
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from config.errors import BadRequest, Forbidden, NotImplementedHere, Unavailable
from config.http import parsed
from provisioning import dispatch
from provisioning.duplicate_rules import CleanupPlan, Member, Options, verdicts
from provisioning.serializers import CleanupInput
from provisioning.services.duplicates import Outcome, clean_up_duplicates, plan_cleanup
from provisioning.services.images import refresh_images
from provisioning.services.plans import plan_start
from provisioning.services.sweeps import compare_compute
from provisioning.verdicts import Finding
from workspaces.defaults import known_runtimes
from workspaces.models import EXTERNAL
from workspaces.views import WorkspaceViewSet

log = structlog.get_logger(__name__)

PULL_BUDGET_S = 280.0  # of one refresh over HTTP: the proxy in front waits 300 s
BUDGET_S = 50.0  # of one cleanup over HTTP; what is left is removed by the next one


class PlanViewSet(WorkspaceViewSet):
    """`POST /workspaces/:id/provision-plan`."""

    def create(self, request: Request, **kwargs: Any) -> Response:
        return Response(plan_start(self.workspace))


class DeploymentViewSet(ViewSet):
    """What is about the whole deployment is not for the operators of one org."""

    not_for_orgs: str

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if principal_of(request).org_id is not None:
            raise Forbidden(self.not_for_orgs)


class ComputeViewSet(DeploymentViewSet):
    """`GET /admin/compute`: all compute joined with the rows."""

    not_for_orgs = "compute is listed for the whole deployment, not for one org"

    def list(self, request: Request) -> Response:
        if not dispatch.has_provisioner():
            raise NotImplementedHere("compute unavailable on this deployment (no backend)")
        try:
            findings = compare_compute(timezone.now(), with_missing=True)
        except Exception as error:
            log.warning("compute.unlisted", error=getattr(error, "detail", "") or repr(error))
            raise Unavailable("compute could not be listed; try again") from None
        return Response([_found(one) for one in findings])


class ImagesViewSet(DeploymentViewSet):
    """`POST /admin/workspace-images/refresh?runtime=&recreate=&force=`."""

    not_for_orgs = "images are shared by the whole deployment"

    def refresh(self, request: Request) -> Response:
        given = request.query_params
        known = sorted(known_runtimes() - {EXTERNAL})
        runtime = given.get("runtime") or ""
        if runtime and runtime not in known:
            raise BadRequest("unknown runtime", known_runtimes=known)
        if not dispatch.offers("image_cache"):
            raise NotImplementedHere("images are not kept by this deployment (no Docker)")
        result = refresh_images(
            [runtime] if runtime else known,
            recreate=given.get("recreate") not in {"false", "0"},
            force=given.get("force") in {"true", "1"},
            budget_s=PULL_BUDGET_S,
        )
        return Response(result)


class DuplicatesViewSet(DeploymentViewSet):
    """`/admin/workspaces/duplicates`: the plan, and its application."""

    not_for_orgs = "copies are looked for in the whole deployment, not in one org"

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


def _found(finding: Finding) -> dict[str, Any]:
    compute, row = finding.compute, finding.standing
    return {
        "workspace_id": finding.workspace_id,
        "name": row.name if row else None,
        "status": row.status if row else None,
        "runtime": row.runtime if row else compute.runtime if compute else "",
        "compute_id": compute.compute_id if compute else None,
        "generation": compute.generation if compute else None,
        "current_generation": row.generation if row else None,
        "state": compute.state if compute else None,
        "started_at": compute.started_at if compute else None,
        "vcpus": compute.vcpus if compute else None,
        "verdict": finding.verdict,
    }


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
