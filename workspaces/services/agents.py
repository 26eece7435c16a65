"""Verbs over the agent (the model) assigned to a workspace: assign, replace, remove, move.

That a workspace has one active agent at most is a unique index: of two at once, the database refuses one.
Source: docs/reference/panels.md, Agent.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from activity.events import EventType, record
from config.errors import Conflict, NotFound
from config.states import update_returning
from workspaces.models import Agent, AgentStatus, RemovalReason
from workspaces.services.presence import lock_live, lock_live_ones

HAS_ONE = "workspace already has an active agent, use PATCH to replace"


@transaction.atomic
def assign_agent(*, workspace_id: UUID, model: str) -> Agent:
    """Raises NotFound (workspace), Conflict when it has an active agent."""
    lock_live(workspace_id)
    agent = _activate(workspace_id, model)
    record(EventType.AGENT_ASSIGNED, workspace_id, {"agent_id": str(agent.pk), "model": model})
    return agent


@transaction.atomic
def replace_agent(*, workspace_id: UUID, model: str) -> tuple[Agent, str]:
    """The new agent and the model of the one it replaces, or neither. Raises NotFound."""
    lock_live(workspace_id)
    ended = _end(workspace_id, AgentStatus.REPLACED, RemovalReason.MODEL_REPLACED)
    if ended is None:
        raise NotFound("no active agent to replace")
    agent = _activate(workspace_id, model)
    payload = {"agent_id": str(agent.pk), "model": model, "old_model": ended.model}
    record(EventType.AGENT_REPLACED, workspace_id, payload)
    return agent, ended.model


@transaction.atomic
def remove_agent(*, workspace_id: UUID) -> Agent:
    """Raises NotFound."""
    lock_live(workspace_id)
    ended = _end(workspace_id, AgentStatus.REMOVED, RemovalReason.MANUAL_REMOVAL)
    if ended is None:
        raise NotFound("no active agent to remove")
    record(EventType.AGENT_REMOVED, workspace_id, {"agent_id": str(ended.pk), "model": ended.model})
    return ended


@transaction.atomic
def move_agent(*, source_id: UUID, target_id: UUID) -> Agent:
    """Hand the active agent of one workspace to another, which must have none; both are told.

    Raises NotFound (either workspace, or no agent), Conflict.
    """
    live = lock_live_ones(source_id, target_id)
    if source_id not in live:
        raise NotFound("workspace not found")
    if target_id not in live:
        raise NotFound("target workspace not found")
    agent = Agent.objects.active().filter(workspace_id=source_id).first()
    if agent is None:
        raise NotFound("no active agent in source workspace")
    if source_id == target_id or not _hand_over(agent, target_id):
        raise Conflict("target workspace already has an active agent")
    facts = {"agent_id": str(agent.pk), "model": agent.model}
    record(EventType.AGENT_MOVED, source_id, {**facts, "target_workspace_id": str(target_id)})
    record(EventType.AGENT_MOVED, target_id, {**facts, "source_workspace_id": str(source_id)})
    return agent


def close_agents(workspace_ids: Iterable[UUID]) -> None:
    """End the active agents of workspaces that are being removed, in the caller's transaction."""
    rows = Agent.objects.active().filter(workspace_id__in=list(workspace_ids))
    rows.update(status=AgentStatus.REMOVED, removed_at=Now(), removal_reason=RemovalReason.MANUAL_REMOVAL)


def _activate(workspace_id: UUID, model: str) -> Agent:
    try:
        with transaction.atomic():
            return Agent.objects.create(workspace_id=workspace_id, model=model)
    except IntegrityError:
        raise Conflict(HAS_ONE) from None


def _end(workspace_id: UUID, status: AgentStatus, reason: RemovalReason) -> Agent | None:
    rows = Agent.objects.active().filter(workspace_id=workspace_id)
    ended = update_returning(rows, status=status, removed_at=Now(), removal_reason=reason)
    return ended[0] if ended else None


def _hand_over(agent: Agent, target_id: UUID) -> bool:
    try:
        with transaction.atomic():
            return bool(Agent.objects.active().filter(pk=agent.pk).update(workspace_id=target_id))
    except IntegrityError:
        return False
