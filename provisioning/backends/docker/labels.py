"""Names and labels: how a workspace's containers and volumes are found again, by us and by nobody else.

Source: docs/reference/docker.md, Names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from provisioning.backends.base import StartSpec

MANAGED = "molecule.platform.managed"
INSTANCE = "molecule.platform.instance"
HELPER = "molecule.platform.helper"
WORKSPACE = "molecule.workspace.id"
GENERATION = "molecule.workspace.generation"
RUNTIME = "molecule.workspace.runtime"
TIER = "molecule.workspace.tier"
OPERATION = "molecule.operation.id"
PORT = "molecule.workspace.port"  # of a container in the host's network
ALIAS_LENGTH = 12
SESSION_PATHS = {"claude-code": "/root/.claude/sessions"}  # runtimes that keep a session, and where


def container_name(workspace_id: UUID) -> str:
    return f"ws-{workspace_id}"


def aliases(workspace_id: UUID) -> list[str]:
    """Names in the network; the short one is what older agents call."""
    return [container_name(workspace_id), f"ws-{str(workspace_id)[:ALIAS_LENGTH]}"]


def configs_volume(workspace_id: UUID) -> str:
    return f"ws-{workspace_id}-configs"


def workspace_volume(workspace_id: UUID) -> str:
    return f"ws-{workspace_id}-workspace"


def session_volume(workspace_id: UUID) -> str:
    return f"ws-{workspace_id}-claude-sessions"


def volumes(workspace_id: UUID) -> list[str]:
    return [configs_volume(workspace_id), workspace_volume(workspace_id), session_volume(workspace_id)]


def labels(spec: StartSpec, instance: str) -> dict[str, str]:
    return {
        MANAGED: "true",
        INSTANCE: instance,
        WORKSPACE: str(spec.workspace_id),
        GENERATION: str(spec.generation),
        RUNTIME: spec.runtime,
        TIER: str(spec.tier),
        OPERATION: str(spec.operation_id),
    }


def of_deployment(instance: str) -> dict[str, list[str]]:
    """The engine's filter for everything of one deployment."""
    return {"label": [f"{MANAGED}=true", f"{INSTANCE}={instance}"]}


@dataclass(frozen=True)
class Marks:
    """What the labels say of a container or volume."""

    workspace_id: UUID
    generation: int
    runtime: str


def read(found: Mapping[str, str] | None, instance: str) -> Marks | None:
    """None for what is not this deployment's, or damaged: it is left alone."""
    found = found or {}
    if found.get(MANAGED) != "true" or found.get(INSTANCE) != instance:
        return None
    try:
        return Marks(UUID(found[WORKSPACE]), int(found[GENERATION]), found.get(RUNTIME, ""))
    except (KeyError, ValueError):
        return None
