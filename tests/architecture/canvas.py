"""A small reference canvas: the state it loads from the list, and what each frame does to it.

It knows what a canvas knows: rows of `GET /workspaces` and frames, nothing else.
Source: docs/reference/events.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from activity.events import EventType, Frame

# What frames tell; the rest of a row (times, uptime, layout) reaches a canvas with the next list.
TOLD = ("name", "status", "tier", "runtime", "parent_id", "current_task", "active_tasks", "agent_card")

_STATUS = {
    EventType.WORKSPACE_PROVISIONING: "provisioning",
    EventType.WORKSPACE_ONLINE: "online",
    EventType.WORKSPACE_OFFLINE: "offline",
    EventType.WORKSPACE_DEGRADED: "degraded",
    EventType.WORKSPACE_PAUSED: "paused",
    EventType.WORKSPACE_HIBERNATED: "hibernated",
    EventType.WORKSPACE_AWAITING_AGENT: "awaiting_agent",
    EventType.WORKSPACE_PROVISION_FAILED: "failed",
}
_CLEARS_TASK = {
    EventType.WORKSPACE_PROVISIONING,
    EventType.WORKSPACE_PAUSED,
    EventType.WORKSPACE_HIBERNATED,
}
_NEW = {"parent_id": None, "current_task": "", "active_tasks": 0, "agent_card": None}


class Canvas:
    """Nodes by id."""

    def __init__(self, rows: list[Mapping[str, Any]]) -> None:
        self.nodes = {row["id"]: {key: row[key] for key in TOLD} for row in rows}

    def apply(self, frame: Frame) -> None:
        node_id, payload = str(frame.workspace_id), frame.payload
        if frame.event == EventType.WORKSPACE_REMOVED:
            gone = self.nodes.pop(node_id, None)
            for node in self.nodes.values():
                if gone and node["parent_id"] == node_id:
                    node["parent_id"] = gone["parent_id"]
            return
        if frame.event == EventType.WORKSPACE_PROVISIONING and node_id not in self.nodes:
            self.nodes[node_id] = dict(_NEW)
        node = self.nodes.get(node_id)
        if node is None:
            return
        if frame.event in _STATUS:
            node["status"] = _STATUS[frame.event]
        if frame.event in _CLEARS_TASK:
            node.update(current_task="", active_tasks=0)
        if frame.event == EventType.WORKSPACE_MOVED:
            node["parent_id"] = payload["new_parent_id"]
        node.update({key: payload[key] for key in TOLD if key in payload and key != "status"})
