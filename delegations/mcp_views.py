"""The MCP bridge: `POST /workspaces/:id/mcp` and its stream. JSON-RPC 2.0, errors included, is a 200.

Asynchronous: `delegate_task` waits for another agent, and no thread waits with it.
Source: docs/reference/mcp.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import structlog
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from access import windows
from access.authentication import address_of, principal_of
from access.permissions import require_workspace
from access.rate_limits import bucket
from access.windows import Charge, Limit
from config.errors import BadRequest, NotFound
from config.http import from_json, json_response, only, workspace_uuid
from config.threads import in_thread, release_thread
from delegations.models import Delegation
from delegations.services import hang_up
from delegations.tools import WAIT_S, Outcome, Waiting, ended, tools
from workspaces.models import Workspace
from workspaces.tools import ToolError

log = structlog.get_logger(__name__)

LIMIT = Limit("mcp", 120, 60, "MCP rate limit exceeded")
LOOK_S = 0.2  # between two looks at a delegation that is waited for
PING_S = 30.0
PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, FAILED = -32700, -32600, -32601, -32602, -32000
ABOUT = {
    "protocolVersion": "2024-11-05",
    "capabilities": {"tools": {"listChanged": False}},
    "serverInfo": {"name": "molecule-a2a", "version": "1.0.0"},
}


class RpcError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@only("POST")
async def call(request: HttpRequest, workspace_id: str) -> HttpResponse:
    """Class Workspace."""
    workspace = await sync_to_async(_admitted)(request, workspace_uuid(workspace_id))
    try:
        body = from_json(request.body) if request.body.strip() else None
    except BadRequest:
        body = None
    if body is None:
        return json_response(_error(None, PARSE_ERROR, "parse error"), status=400)
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        return json_response(_error(None, INVALID_REQUEST, "invalid request"))
    request_id = body.get("id")
    try:
        result = await _result(workspace, body["method"], body.get("params"))
    except RpcError as error:
        return json_response(_error(request_id, error.code, error.text))
    if result is None:  # a notification
        return json_response({"jsonrpc": "2.0", "id": None})
    return json_response({"jsonrpc": "2.0", "id": request_id, "result": result})


@only("GET")
async def stream(request: HttpRequest, workspace_id: str) -> HttpResponseBase:
    """Class Workspace: where to post, for clients that ask by a stream; pings until they leave."""
    workspace = await sync_to_async(_admitted)(request, workspace_uuid(workspace_id))
    release_thread()

    async def lines() -> AsyncIterator[bytes]:
        yield f"event: endpoint\ndata: /workspaces/{workspace.pk}/mcp\n\n".encode()
        while True:
            await asyncio.sleep(PING_S)
            yield b": ping\n\n"

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(lines(), content_type="text/event-stream", headers=headers)


def _admitted(request: HttpRequest, workspace_id: UUID) -> Workspace:
    """Raises Unauthorized, Forbidden, NotFound, TooManyRequests."""
    principal = principal_of(request)
    require_workspace(principal, workspace_id)
    (standing,) = windows.take(Charge(LIMIT, bucket(principal, address_of(request))))
    if standing.is_exceeded:
        raise standing.refusal()
    workspace = Workspace.objects.live().filter(pk=workspace_id).first()
    if workspace is None:
        raise NotFound("workspace not found")
    return workspace


async def _result(workspace: Workspace, method: str, params: Any) -> dict[str, Any] | None:
    match method:
        case "initialize":
            return ABOUT
        case "notifications/initialized":
            return None
        case "ping":
            return {}
        case "tools/list":
            return {"tools": [_listed(name) for name in tools()]}
        case "tools/call":
            return {"content": [{"type": "text", "text": await _called(workspace, params)}]}
    raise RpcError(NO_METHOD, "method not found")


def _listed(name: str) -> dict[str, Any]:
    tool = tools()[name]
    return {"name": name, "description": tool.description, "inputSchema": tool.schema}


async def _called(workspace: Workspace, params: Any) -> str:
    name = params.get("name") if isinstance(params, dict) else None
    given = params.get("arguments") or {} if isinstance(params, dict) else None
    tool = tools().get(name) if isinstance(name, str) else None
    if tool is None or not isinstance(given, dict):
        raise RpcError(INVALID_PARAMS, "invalid parameters")
    try:
        outcome: Outcome = await sync_to_async(tool.call)(workspace, given)
        if isinstance(outcome, Waiting):
            release_thread()  # the other agent may think for a while
            return await _waited_for(outcome.delegation_id)
        return outcome
    except ToolError as error:
        raise RpcError(FAILED, str(error)) from None
    except Exception:
        log.exception("mcp.tool_failed", tool=name, workspace_id=str(workspace.pk))
        raise RpcError(FAILED, "tool call failed") from None


async def _waited_for(delegation_id: str) -> str:
    """The answer, when it comes in time; else where it will be. Raises ToolError."""
    ends_at = time.monotonic() + WAIT_S
    while time.monotonic() < ends_at:
        row = await in_thread(Delegation.objects.get)(pk=delegation_id)
        if row.is_terminal or row.shown == "queued":
            break
        await asyncio.sleep(LOOK_S)
    row = await in_thread(hang_up)(delegation_id)
    return await in_thread(ended)(row)


def _error(request_id: Any, code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}
