"""Lifecycle routes of a workspace. They answer at once: starts run in workers, and only stops are waited for.

Source: docs/reference/provisioning.md, Routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from config.errors import BadRequest, Conflict, Internal, NotFound, Unavailable
from provisioning import services
from provisioning.models import ProvisionRun
from provisioning.serializers import RunOutput
from workspaces.models import Workspace
from workspaces.selectors import paused_ancestor
from workspaces.views import WorkspaceViewSet

STORED_CONFIG = "existing-volume"  # a plain restart reuses what the workspace has stored
RUNS_SHOWN = 20
EXTERNAL_NOTE = "external workspaces run elsewhere; restart the agent where it runs"


class LifecycleViewSet(WorkspaceViewSet):
    def restart(self, request: Request, **kwargs: Any) -> Response:
        body = _lenient_body(request)
        wants_reset = (
            body.get("reset") is True or _is_set(request, "reset") or _is_set(request, "reset_session")
        )
        if name := paused_ancestor(self.workspace.pk):
            raise Conflict(f'parent workspace "{name}" is paused — resume it first')
        if not self.workspace.is_managed:
            return Response({"status": "noop", "runtime": self.workspace.runtime, "message": EXTERNAL_NOTE})
        if not services.has_provisioner():
            raise Unavailable("provisioner not available")
        options = {"reset_session": True} if wants_reset else {}
        if services.accept_restart(self.workspace.pk, options) is None:
            raise NotFound("workspace not found")
        return Response({"status": "provisioning", "config_dir": STORED_CONFIG, "reset_session": wants_reset})

    def pause(self, request: Request, **kwargs: Any) -> Response:
        result = services.pause(self.workspace.pk, **_scope(request))
        return _answer("paused", "paused_count", result, is_dry_run=_scope(request)["dry_run"])

    def resume(self, request: Request, **kwargs: Any) -> Response:
        result = services.resume(self.workspace.pk, **_scope(request))
        status = "provisioning" if self.workspace.is_managed else "awaiting_agent"
        return _answer(status, "resumed_count", result, is_dry_run=_scope(request)["dry_run"])

    def hibernate(self, request: Request, **kwargs: Any) -> Response:
        services.hibernate(self.workspace.pk, force=_is_set(request, "force"))
        return Response({"status": "hibernated"})

    def runs(self, request: Request, **kwargs: Any) -> Response:
        rows = ProvisionRun.objects.filter(workspace_id=self.workspace.pk).order_by(
            "-generation", "-queued_at"
        )
        return Response(RunOutput(rows[:RUNS_SHOWN], many=True).data)


def _answer(status: str, counter: str, result: services.Result, *, is_dry_run: bool) -> Response:
    """200 with the count; 207 when some failed; 500 when nothing was done."""
    if is_dry_run:
        names = dict(Workspace.objects.filter(pk__in=result.moved).values_list("pk", "name"))
        affected = [{"id": one, "name": names.get(one, "")} for one in result.moved]
        return Response({"dry_run": True, counter: len(affected), "workspaces": affected})
    if not result.failures:
        return Response({"status": status, counter: len(result.moved)})
    if not result.moved:
        raise Internal("nothing could be done", failures=result.failures)
    return Response({"status": status, counter: len(result.moved), "failures": result.failures}, status=207)


def _scope(request: Request) -> dict[str, bool]:
    cascade = request.query_params.get("cascade", "true") != "false"
    return {"cascade": cascade, "dry_run": _is_set(request, "dry_run")}


def _is_set(request: Request, name: str) -> bool:
    return request.query_params.get(name) == "true"


def _lenient_body(request: Request) -> Mapping[str, Any]:
    """Shell clients send no body, or a broken one; both mean `{}`."""
    try:
        body = request.data
    except BadRequest:
        return {}
    return body if isinstance(body, Mapping) else {}
