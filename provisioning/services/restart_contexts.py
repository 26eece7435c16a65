"""What an agent is told once it is back from a restart: when that was, and the names of its secrets.

Kept in the workspace's lifecycle row until it is delivered or expires; a newer restart replaces it, a parking
drops it. Source: docs/reference/provisioning.md, The restart context.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import structlog
from django.db.models.functions import Now
from django.utils import timezone

from access.services import secret_keys
from config.errors import DomainError
from config.http import rfc3339
from config.jobs import Job, enqueue
from config.locks import try_lock
from provisioning.models import WorkspaceLifecycle
from provisioning.preparation import SERVER_CREDENTIALS
from workspaces.models import ALIVE, Workspace
from workspaces.services.transitions import QUEUE_GRACE

log = structlog.get_logger(__name__)

CALLER = "system:restart-context"
METADATA = {"source": "platform", "kind": "restart_context", "layer": 1, "restart_context": True}
BATCH = 200


class Tell(Protocol):
    """Puts a message of the server's own before an agent; returns when it has it. Raises DomainError."""

    def __call__(self, *, target_id: UUID, caller: str, envelope: dict[str, Any]) -> None: ...


def capture(state: WorkspaceLifecycle, row: Workspace) -> None:
    """Note in `state`, which the caller saves, what the restart that has just claimed `row` is to tell."""
    ended = row.last_heartbeat_at
    state.restart_context = {
        "generation": row.generation,
        "restart_at": rfc3339(row.updated_at),
        "ended_at": rfc3339(ended) if ended else None,
        "env_keys": _keys(row.pk),
    }
    state.restart_context_expires_at = timezone.now() + QUEUE_GRACE


def refresh_keys(state: WorkspaceLifecycle) -> None:
    """A restart that was accepted and not yet begun also serves a secret that came since."""
    if state.restart_context:
        state.restart_context["env_keys"] = _keys(state.pk)


def start_clock(workspace_id: UUID, timeout: timedelta) -> None:
    """The restart is being worked on: what it tells is of interest as long as its start may take."""
    kept = WorkspaceLifecycle.objects.filter(pk=workspace_id, restart_context__isnull=False)
    kept.update(restart_context_expires_at=Now() + timeout)


def drop_context(workspace_id: UUID) -> None:
    """The restart was called off, or overruled."""
    kept = WorkspaceLifecycle.objects.filter(pk=workspace_id, restart_context__isnull=False)
    kept.update(restart_context=None, restart_context_expires_at=None)


def is_context_pending(workspace_id: UUID) -> bool:
    """Whether the agent's first turn after a restart is still to come: no other message may overtake it."""
    return WorkspaceLifecycle.objects.with_context().filter(pk=workspace_id).exists()


def deliver_context(workspace_id: UUID, tell: Tell) -> None:
    """Tell the agent, if it is back. What fails is tried again by the sweep, until it expires.

    Its message id is the restart's: of a delivery that died half-way an agent can tell the repeat.
    """
    with try_lock(f"restart-context:{workspace_id}") as mine:
        context = _due(workspace_id) if mine else None
        if context is None:
            return
        try:
            tell(target_id=workspace_id, caller=CALLER, envelope=_envelope(workspace_id, context))
        except DomainError as error:
            log.info("restart_context.not_delivered", workspace_id=str(workspace_id), reason=error.text)
            return
        told = WorkspaceLifecycle.objects.filter(
            pk=workspace_id, restart_context__generation=context["generation"]
        )
        told.update(restart_context=None, restart_context_expires_at=None)


def ring_for_contexts(now: datetime) -> int:
    """Ring for every agent that is back and was not told yet; forget what came too late. Returns how many."""
    kept = WorkspaceLifecycle.objects.filter(restart_context__isnull=False)
    kept.filter(restart_context_expires_at__lt=now).update(
        restart_context=None, restart_context_expires_at=None
    )
    back = kept.filter(workspace__status__in=ALIVE).order_by("restart_context_expires_at")
    ids = list(back.values_list("pk", flat=True)[:BATCH])
    for one in ids:
        enqueue(Job.DELIVER_RESTART_CONTEXT, workspace_id=one)
    return len(ids)


def context_text(context: dict[str, Any]) -> str:
    """The message's lines; clients match on them. Durations: `2h14m`, `5m3s`, `38s`."""
    ended = "(no prior session on record)"
    if context["ended_at"]:
        away = datetime.fromisoformat(context["restart_at"]) - datetime.fromisoformat(context["ended_at"])
        ended = f"{context['ended_at']} ({_duration(away)} ago)"
    lines = [
        "=== WORKSPACE RESTART CONTEXT ===",
        f"Restart at: {context['restart_at']}",
        f"Previous session ended: {ended}",
        f"Env vars now available: {', '.join(context['env_keys']) or '(none)'}",
        "=== END RESTART CONTEXT ===",
    ]
    return "\n".join(lines)


def _due(workspace_id: UUID) -> dict[str, Any] | None:
    """The context of an agent that has come online and called since its restart."""
    state = WorkspaceLifecycle.objects.with_context().filter(pk=workspace_id).first()
    if state is None or state.restart_context is None:
        return None
    context = state.restart_context
    back = Workspace.objects.at(workspace_id, context["generation"]).filter(
        status__in=ALIVE, last_heartbeat_at__gt=datetime.fromisoformat(context["restart_at"])
    )
    return context if back.exists() else None


def _envelope(workspace_id: UUID, context: dict[str, Any]) -> dict[str, Any]:
    message_id = f"restart-context-{workspace_id}-{context['generation']}"
    message = {
        "messageId": message_id,
        "role": "user",
        "parts": [{"kind": "text", "text": context_text(context)}],
        "metadata": METADATA,
    }
    return {
        "jsonrpc": "2.0",
        "id": message_id,
        "method": "message/send",
        "params": {"message": message, "metadata": {**METADATA, "caller": CALLER}},
    }


def _keys(workspace_id: UUID) -> list[str]:
    return [key for key in secret_keys(workspace_id) if key not in SERVER_CREDENTIALS]


def _duration(length: timedelta) -> str:
    seconds = max(0, int(length.total_seconds()))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"
