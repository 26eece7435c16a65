"""Lifecycle routes of a workspace. They answer at once: starts run in workers, and only stops are waited for.

Source: docs/reference/provisioning.md, Routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.permissions import path_workspace
from access.windows import Limit, spend
from activity.redaction import redacted, storable
from config.errors import (
    BadGateway,
    BadRequest,
    Conflict,
    Internal,
    NotFound,
    NotImplementedHere,
    Unavailable,
)
from config.http import parsed
from provisioning import dispatch, services
from provisioning.backends.base import BackendError, FileError, Unsupported
from provisioning.models import BootBundle, ProvisionRun
from provisioning.serializers import BootEventInput, BootFailureInput, RunOutput
from templates.sources import STORED, restart_label
from workspaces.models import Workspace
from workspaces.selectors import paused_ancestor
from workspaces.views import WorkspaceViewSet

logger = structlog.get_logger(__name__)

DEFAULT_TAIL, MAX_TAIL = 200, 2000
_SOURCES = {"cp": "ec2"}  # as the wire calls a backend's label
RUNS_SHOWN = 20
BOOT_CALLS = 10  # per boot token, route and minute
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
        label = _config_source(self.workspace, body)
        options: dict[str, Any] = {"reset_session": True} if wants_reset else {}
        if label != STORED:
            options["config_dir"] = label
        if services.accept_restart(self.workspace.pk, options) is None:
            raise NotFound("workspace not found")
        return Response({"status": "provisioning", "config_dir": label, "reset_session": wants_reset})

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


class BootViewSet(WorkspaceViewSet):
    """What operators read of a workspace's machine or process."""

    def console(self, request: Request, **kwargs: Any) -> Response:
        if not dispatch.offers("console"):
            raise NotImplementedHere("console output unavailable on this deployment (no control plane)")
        try:
            output = dispatch.console(self.workspace.pk)
        except FileError:
            raise NotFound("this workspace has no machine") from None
        except BackendError as error:
            logger.warning("console.failed", workspace_id=str(self.workspace.pk), error=error.detail)
            raise BadGateway("the machine's console could not be read") from None
        shown = {"output": redacted(storable(output))[0]}
        if self.workspace.instance_id:
            shown["instance_id"] = self.workspace.instance_id
        return Response(shown)

    def log(self, request: Request, **kwargs: Any) -> Response:
        if not self.workspace.is_managed:
            raise NotFound("an external workspace keeps its log where it runs")
        if not services.has_provisioner():
            raise NotImplementedHere("boot log unavailable on this deployment (no backend)")
        try:
            output = dispatch.logs(self.workspace.pk, _tail(request))
        except Unsupported:
            raise NotImplementedHere("boot log unavailable on this deployment") from None
        except FileError:
            raise NotFound("this workspace has no machine") from None
        except BackendError as error:
            logger.warning("boot_log.failed", workspace_id=str(self.workspace.pk), error=error.detail)
            raise BadGateway("the workspace's log could not be read") from None
        return Response(
            {"source": _SOURCES.get(dispatch.label(), dispatch.label()), "output": redacted(output)[0]}
        )


class BootView(ViewSet):
    """What a machine asks and tells while it boots; `bundle` is set by the auth class."""

    bundle: BootBundle

    def config(self, request: Request, **kwargs: Any) -> Response:
        self._spend("boot-config")
        return Response(services.boot_config(self.bundle), headers={"Cache-Control": "no-store"})

    def event(self, request: Request, **kwargs: Any) -> Response:
        self._spend("boot-events")
        given = parsed(BootEventInput, request)
        services.note_phase(self.bundle, given["phase"], given.get("message") or "")
        return Response({"ok": True})

    def _spend(self, scope: str) -> None:
        spend(Limit(scope, BOOT_CALLS, 60), f"{self.bundle.workspace_id}:{self.bundle.generation}")


class BootFailure(ViewSet):
    """`POST /admin/workspaces/:id/bootstrap-failed`: whoever watches a start reports that it failed."""

    def create(self, request: Request, **kwargs: Any) -> Response:
        given = parsed(BootFailureInput, request)
        is_changed = services.report_boot_failure(
            workspace_id=path_workspace(self),
            error=given.get("error") or "",
            log_tail=given.get("log_tail") or "",
        )
        return Response({"ok": True} if is_changed else {"ok": True, "no_change": True})


def _config_source(workspace: Workspace, body: Mapping[str, Any]) -> str:
    """What a restart's body asks to be applied; a wish that makes no sense is none."""
    template = body.get("template")
    return restart_label(
        workspace,
        template=template.strip() if isinstance(template, str) else "",
        apply_template=body.get("apply_template") is True,
        rebuild_config=body.get("rebuild_config") is True,
    )


def _tail(request: Request) -> int:
    """Lines of the log: 1 to 2000, 200 unless said otherwise."""
    given = request.query_params.get("tail", "")
    return max(1, min(int(given), MAX_TAIL)) if given.isascii() and given.isdecimal() else DEFAULT_TAIL


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
    return request.query_params.get(name) in {"true", "1"}


def _lenient_body(request: Request) -> Mapping[str, Any]:
    """Shell clients send no body, or a broken one; both mean `{}`."""
    try:
        body = request.data
    except BadRequest:
        return {}
    return body if isinstance(body, Mapping) else {}
