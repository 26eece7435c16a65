"""Why a terminal would not open, and what an agent says it did.

Source: docs/reference/panels.md, Terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from access.authentication import principal_of
from access.credentials import Kind, bearers
from config.errors import BadGateway, Unavailable
from provisioning import dispatch
from provisioning.backends.base import BackendError, Compute, ComputeState
from uploads import delivery, relay
from workspaces.views import WorkspaceViewSet

MAX_TRANSCRIPT_BYTES = 1024 * 1024
TRANSCRIPT_S = 10.0
PASSED_ON = ("since", "limit")


class TerminalViewSet(WorkspaceViewSet):
    def diagnose(self, request: Request, **kwargs: Any) -> Response:
        """`GET /workspaces/:id/terminal/diagnose`: always 200, the steps up to the first that fails."""
        is_remote = bool(self.workspace.instance_id)
        steps = list(_steps(self._checks()))
        failed = [one["name"] for one in steps if not one["ok"]]
        told: dict[str, Any] = {"workspace_id": str(self.workspace.pk), "remote": is_remote}
        if is_remote:
            told["instance_id"] = self.workspace.instance_id
        told["ok"] = not failed
        if failed:
            told["first_failure"] = failed[0]
        return Response({**told, "steps": steps})

    def transcript(self, request: Request, **kwargs: Any) -> HttpResponse:
        """`GET /workspaces/:id/transcript?since=&limit=`: the agent's own answer, at most 1 MiB.

        Only a token of this very workspace goes along; an operator's never reaches an agent.
        """
        target = delivery.target_of(self.workspace.pk)
        if not target.url:
            raise Unavailable("workspace agent has not registered a URL yet; retry shortly")
        query = {name: request.query_params[name] for name in PASSED_ON if name in request.query_params}
        path = f"/transcript?{urlencode(query)}" if query else "/transcript"
        answered = relay.call(
            target, "GET", path, op="transcript", credential=_own_token(request), silence_s=TRANSCRIPT_S
        )
        body = answered.beginning(MAX_TRANSCRIPT_BYTES + 1)
        if len(body) > MAX_TRANSCRIPT_BYTES:
            raise BadGateway("the transcript is larger than 1 MiB; ask with `limit` or `since`")
        return HttpResponse(body, status=answered.status, content_type=answered.content_type)

    def _checks(self) -> list[tuple[str, Callable[[], None]]]:
        if not self.workspace.is_managed:
            return [("container-found", _fails("an external workspace runs elsewhere"))]
        if self.workspace.instance_id:
            return [("ssh-keygen", _fails("this server opens no shells on instances"))]
        found: list[Compute] = []

        def available() -> None:
            if not dispatch.offers("shell"):
                raise LookupError("Docker not available")
            found.extend(one for one in dispatch.list_managed() if one.workspace_id == self.workspace.pk)

        def is_found() -> None:
            if not found:
                raise LookupError("the workspace has no container; restart it")

        def is_running() -> None:
            if found[0].state != ComputeState.RUNNING:
                raise LookupError(f"container not running: it is {found[0].state}")

        return [
            ("docker-available", available),
            ("container-found", is_found),
            ("container-running", is_running),
        ]


def _steps(checks: list[tuple[str, Callable[[], None]]]) -> Iterator[dict[str, Any]]:
    for name, check in checks:
        began, error = time.monotonic(), ""
        try:
            check()
        except LookupError as failure:
            error = str(failure)
        except BackendError as failure:
            error = failure.safe_message
        step: dict[str, Any] = {"name": name, "ok": not error}
        step["duration_ms"] = int((time.monotonic() - began) * 1000)
        yield {**step, "error": error} if error else step
        if error:
            return


def _fails(reason: str) -> Callable[[], None]:
    def check() -> None:
        raise LookupError(reason)

    return check


def _own_token(request: Request) -> str | None:
    """The caller's token where it is the workspace's: the auth class admits no other workspace's, and of two
    tokens nobody knows here which one that was.
    """
    presented = set(bearers(request.META.get("HTTP_AUTHORIZATION")))
    is_own = principal_of(request).kind == Kind.WORKSPACE and len(presented) == 1
    return presented.pop() if is_own else None
