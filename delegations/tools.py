"""The tools of the MCP bridge: what an agent may ask for by name, and the fixed texts of what goes wrong.

Source: docs/reference/mcp.md, Tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from activity.attachments import checked_attachments
from activity.services import message_user
from config.errors import BadRequest, Forbidden, NotFound
from delegations import selectors
from delegations.models import Delegation, Source, Status
from delegations.services import Task, delegate
from memory.tools import TOOLS as MEMORY_TOOLS
from workspaces.models import Workspace
from workspaces.selectors import peers
from workspaces.tools import Arguments, Tool, ToolError, schema, shown, text_of

WAIT_S = 30.0
GRACE_S = 30.0  # for the answer to be handed over
NOTE = "the target has not answered yet; ask check_task_status, the result also comes to your inbox"
UNTRACKED = "task not tracked or not yet dispatched"


@dataclass(frozen=True)
class Waiting:
    """The call goes on: the caller of the tool waits on the line for this delegation."""

    delegation_id: str


Outcome = str | Waiting


def list_peers(workspace: Workspace, given: Arguments) -> Outcome:
    found = [
        {key: one[key] if one[key] is not None else "" for key in ("id", "name", "role", "status", "tier")}
        for one in peers(workspace)
    ]
    return shown(found) if found else "No peers found."


def get_workspace_info(workspace: Workspace, given: Arguments) -> Outcome:
    keys = ("id", "name", "role", "tier", "status")
    info = {key: getattr(workspace, "pk" if key == "id" else key) for key in keys}
    if workspace.parent_id:
        info["parent_id"] = workspace.parent_id
    return shown({**info, "role": workspace.role or ""})


def delegate_task(workspace: Workspace, given: Arguments) -> Outcome:
    until = timezone.now() + timedelta(seconds=WAIT_S + GRACE_S)
    row = _delegated(workspace, given, Source.MCP_SYNC, inline_until=until)
    return Waiting(row.pk)


def delegate_task_async(workspace: Workspace, given: Arguments) -> Outcome:
    row = _delegated(workspace, given, Source.MCP_ASYNC)
    return shown({"task_id": row.pk, "status": "dispatched", "target_id": row.callee_id})


def check_task_status(workspace: Workspace, given: Arguments) -> Outcome:
    target, task_id = _target(given), text_of(given, "task_id")
    row = Delegation.objects.filter(pk=task_id, caller_id=workspace.pk, callee_id=target).first()
    if row is None:
        return shown({"task_id": task_id, "status": "not_found", "note": UNTRACKED})
    status: dict[str, Any] = {"task_id": row.pk, "status": row.shown, "target_id": row.callee_id}
    if row.status == Status.COMPLETED:
        status["result"] = selectors.outcome_text(row)
    elif row.error_detail:
        status["error"] = row.error_detail
    return shown(status)


def send_message_to_user(workspace: Workspace, given: Arguments) -> Outcome:
    message, files = text_of(given, "message"), _attachments(given)
    message_user(workspace_id=workspace.pk, name=workspace.name, message=message, attachments=files)
    return "Message sent."


def ended(row: Delegation) -> str:
    """What a waiting agent is told of a delegation. Raises ToolError with the reason of a failure."""
    if row.status == Status.COMPLETED:
        return selectors.outcome_text(row)
    if row.status == Status.FAILED:
        raise ToolError(f"A2A delegation failed: {selectors.outcome_text(row)}")
    return shown({"task_id": row.pk, "status": row.shown, "target_id": row.callee_id, "note": NOTE})


def _delegated(workspace: Workspace, given: Arguments, source: Source, **more: Any) -> Delegation:
    target, text, files = _target(given), text_of(given, "task"), _attachments(given)
    try:
        return delegate(Task(workspace.pk, target, text, source=source, attachments=files, **more)).row
    except NotFound:
        raise ToolError("workspace not found") from None
    except Forbidden:
        text = f"workspace {workspace.pk} is not authorised to communicate with {target}"
        raise ToolError(text) from None
    except BadRequest as error:
        raise ToolError(error.text) from None


def _attachments(given: Arguments) -> list[dict[str, Any]]:
    attachments = given.get("attachments") or []
    if not isinstance(attachments, list):
        raise ToolError("attachments must be a list")
    try:
        return checked_attachments(attachments)
    except BadRequest as error:
        raise ToolError(error.text) from None


def _target(given: Arguments) -> UUID:
    text = text_of(given, "workspace_id")
    try:
        return UUID(text)
    except ValueError:
        raise ToolError("workspace not found") from None


_FILES = {"attachments": {"type": "array", "items": {"type": "object"}}}


_ALL = {
    "list_peers": Tool(list_peers, "The workspaces this one works with directly.", schema()),
    "get_workspace_info": Tool(get_workspace_info, "What this workspace is.", schema()),
    "delegate_task": Tool(
        delegate_task, "Hand a task to a peer and wait for its answer.", schema("workspace_id task", _FILES)
    ),
    "delegate_task_async": Tool(
        delegate_task_async,
        "Hand a task to a peer; the result comes to the inbox.",
        schema("workspace_id task", _FILES),
    ),
    "check_task_status": Tool(
        check_task_status, "What became of a task that was handed on.", schema("workspace_id task_id")
    ),
    "send_message_to_user": Tool(
        send_message_to_user, "Say something to the person at the canvas.", schema("message", _FILES)
    ),
    **MEMORY_TOOLS,
}


def tools() -> dict[str, Tool]:
    """Those that are offered: the one answer for listing and for calling."""
    hidden = set() if settings.MOLECULE_MCP_ALLOW_SEND_MESSAGE else {"send_message_to_user"}
    return {name: tool for name, tool in _ALL.items() if name not in hidden}
