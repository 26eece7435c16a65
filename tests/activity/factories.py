"""Rows of the feed, written by the one writer."""

from __future__ import annotations

from typing import Any

from activity.models import ActivityLog
from activity.services import log_activity
from workspaces.models import Workspace


def logged(workspace: Workspace, **fields: Any) -> ActivityLog:
    given = {"activity_type": "agent_log", "announce": False, **fields}
    return log_activity(workspace_id=workspace.pk, **given)


def received(workspace: Workspace, text: str = "hello", **fields: Any) -> ActivityLog:
    """A message in the workspace's inbox."""
    parts = [{"kind": "text", "text": text}]
    body = {"jsonrpc": "2.0", "method": "message/send", "params": {"message": {"parts": parts}}}
    return logged(workspace, activity_type="a2a_receive", method="message/send", request_body=body, **fields)
