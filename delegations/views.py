"""Routes of the delegations. Source: docs/reference/delegations.md."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from activity.feed import limit_of
from config.errors import BadRequest, NotFound, failing_as
from config.http import parsed
from delegations import selectors, services
from delegations.models import Delegation, Source
from delegations.serializers import (
    ENDS,
    AdminOutput,
    DelegateInput,
    RecordInput,
    ReportInput,
    ResolveInput,
)
from delegations.services.creation import DEADLINE_S
from workspaces.views import WorkspaceViewSet

SHOWN, MOST_SHOWN = 50, 200
ADMIN_SHOWN, ADMIN_MOST = 100, 1000


class DelegationViewSet(WorkspaceViewSet):
    def delegate(self, request: Request, **kwargs: Any) -> Response:
        given = parsed(DelegateInput, request)
        accepted = services.delegate(
            services.Task(
                caller_id=self.workspace.pk,
                target_id=_uuid(given["target_id"]),
                text=given["task"],
                idempotency_key=given.get("idempotency_key") or None,
                deadline_s=given.get("deadline_seconds") or DEADLINE_S,
                source=Source.API,
            )
        )
        row = accepted.row
        body = {"delegation_id": row.pk, "status": "delegated", "target_id": row.callee_id}
        if accepted.is_repeat:
            body |= {"status": row.shown, "idempotent_hit": True}
        return Response(body, status=202)

    def record(self, request: Request, **kwargs: Any) -> Response:
        given = parsed(RecordInput, request)
        services.record_delegation(
            caller_id=self.workspace.pk,
            target_id=_uuid(given["target_id"]),
            text=given["task"],
            delegation_id=given["delegation_id"],
        )
        return Response({"delegation_id": given["delegation_id"], "status": "recorded"}, status=202)

    def report(self, request: Request, delegation_id: str, **kwargs: Any) -> Response:
        given = parsed(ReportInput, request)
        if given["status"] not in ENDS:
            services.report_waiting(workspace_id=self.workspace.pk, delegation_id=delegation_id)
            return Response({"status": given["status"], "delegation_id": delegation_id})
        result = services.report_end(
            workspace_id=self.workspace.pk,
            delegation_id=delegation_id,
            status=ENDS[given["status"]],
            text=given.get("response_preview"),
            error=given.get("error"),
        )
        stored = result.row.status if result.row else given["status"]
        body: dict[str, Any] = {"status": stored, "delegation_id": delegation_id}
        if result.outcome == services.Outcome.REFUSED:
            body["ignored"] = True
        return Response(body)

    def beat(self, request: Request, delegation_id: str, **kwargs: Any) -> Response:
        """Somebody works on it."""
        row = services.beat(workspace_id=self.workspace.pk, delegation_id=delegation_id)
        return Response({"status": row.status})

    def list(self, request: Request, **kwargs: Any) -> Response:
        given = request.query_params
        direction = given.get("direction") or "sent"
        if direction not in selectors.DIRECTIONS:
            raise BadRequest("direction must be 'sent', 'received' or 'all'")
        rows = selectors.of_workspace(self.workspace.pk, direction=direction)
        if wanted := given.get("status"):
            if wanted not in selectors.SHOWN:
                raise BadRequest("unknown status filter", allowed=sorted(selectors.SHOWN))
            rows = rows.filter(selectors.SHOWN[wanted])
        if one := given.get("delegation_id"):
            rows = rows.filter(pk=one.replace("\x00", ""))
        limit = limit_of(given.get("limit"), default=SHOWN, most=MOST_SHOWN)
        return Response([selectors.entry(row, self.workspace.pk) for row in rows[:limit]])

    def retrieve(self, request: Request, delegation_id: str, **kwargs: Any) -> Response:
        """One delegation with the whole task and the whole result, for its caller and its callee."""
        row = selectors.find(delegation_id, self.workspace.pk)
        if row is None:
            raise NotFound("delegation not found")
        whole = selectors.texts(row)
        shown = selectors.entry(row, self.workspace.pk)
        return Response({**shown, "task": whole.task or row.task_preview, "result": whole.outcome})


def _uuid(given: str) -> UUID:
    try:
        return UUID(given)
    except ValueError:
        raise BadRequest("target_id must be a valid UUID") from None


class AdminDelegationViewSet(ViewSet):
    """`/admin/delegations`."""

    def list(self, request: Request) -> Response:
        given = request.query_params
        wanted = given.get("status", "in_flight")
        if wanted not in selectors.ADMIN_FILTERS:
            raise BadRequest(
                "unknown status filter", allowed=list(selectors.ADMIN_FILTERS), requested_status=wanted
            )
        limit = _limit(given.get("limit"))
        with failing_as("query failed"):
            rows = Delegation.objects.filter(selectors.ADMIN_FILTERS[wanted]).newest_first()[:limit]
            shown = AdminOutput(rows, many=True).data
        return Response({"delegations": shown, "count": len(shown), "status": wanted, "limit": limit})

    def stats(self, request: Request) -> Response:
        """How many there are of each status."""
        with failing_as("query failed"):
            return Response(selectors.by_status())

    def resolve(self, request: Request, delegation_id: str) -> Response:
        given = parsed(ResolveInput, request)
        verbs = {"fail": services.fail_delegation, "requeue": services.requeue_delegation}
        row = verbs[given["action"]](
            delegation_id=delegation_id,
            reason=given.get("reason") or "",
            actor=principal_of(request).actor,
        )
        return Response(AdminOutput(row).data)


def _limit(given: str | None) -> int:
    if given is None:
        return ADMIN_SHOWN
    if given.isdecimal() and len(given) < 6 and 1 <= int(given) <= ADMIN_MOST:
        return int(given)
    raise BadRequest(f"limit must be 1..{ADMIN_MOST}", requested=given)
