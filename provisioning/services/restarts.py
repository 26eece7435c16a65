"""Restarts: asked for by a person, by a change, or by a health check; done one cycle at a time.

A request is a flag in the workspace's lifecycle row. Whoever holds the lifecycle lock takes the flag and
works, and looks again before letting go, so any number of requests costs at most two cycles and the last one
sees what was committed before the last request. Source: docs/reference/provisioning.md, Restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from activity.counters import count
from config.evt import evt
from config.jobs import Job, enqueue
from provisioning import dispatch, ledger
from provisioning.leases import lifecycle_turn
from provisioning.models import ProvisionRun, RunKind, RunState, WorkspaceLifecycle
from provisioning.services.execution import execute_run
from provisioning.services.restart_contexts import capture, drop_context, refresh_keys
from workspaces.models import ALIVE, PARKED, Status, Workspace
from workspaces.selectors import paused_ancestor
from workspaces.services import transitions

log = structlog.get_logger(__name__)

SETTLE = timedelta(seconds=30)  # a fresh heartbeat this soon after a restart began: it is coming up
KEEPS_STOPPING = (
    "the workspace keeps stopping: it was restarted {limit} times within an hour; "
    "look at its log, then restart it"
)


class Trigger(StrEnum):
    EXPLICIT = "explicit"  # a person at the route: never debounced, wakes a parked workspace
    MUTATION = "mutation"  # something the agent reads at boot has changed: never dropped
    REACTIVE = "reactive"  # a health check: debounced and limited


def accept_restart(workspace_id: UUID, options: Mapping[str, Any]) -> Workspace | None:
    """Accept a person's restart: status, generation, event and the pending flag in one transaction.

    None: the workspace is gone, or has no compute of ours."""
    with transaction.atomic():
        claim = transitions.claim_provisioning(workspace_id)
        if claim is None:
            return None
        _ask(workspace_id, Trigger.EXPLICIT, "", {**options, "prior_status": claim.prior}, of=claim.workspace)
        return claim.workspace


def request_restart(workspace_id: UUID, trigger: Trigger, reason: str) -> bool:
    """Ask for a restart with the newest configuration. False: dropped, or there is nothing to restart with.

    May be called inside the transaction of the change that makes the restart necessary."""
    if not dispatch.has_provisioner():
        return False
    with transaction.atomic():
        row = Workspace.objects.select_for_update().filter(pk=workspace_id).first()
        if row is None or not row.is_managed or row.status in PARKED:
            return False
        if trigger == Trigger.REACTIVE and (dropped := _reason_to_drop(row, timezone.now())):
            count("molecule_restart_dropped_total", reason=dropped)
            evt("restart.dropped", {"workspace_id": str(workspace_id), "reason": dropped})
            return False
        _ask(workspace_id, trigger, reason, {})
        return True


def restart_for_secret(workspace_id: UUID, key: str) -> None:
    """A secret that the agent reads at its start has changed; called in the transaction that changes it."""
    request_restart(workspace_id, Trigger.MUTATION, f"secret:{key}")


def restart_cycle(workspace_id: UUID) -> None:
    """Work off a workspace's pending restarts. Leave at once when somebody is at it: they look again."""
    with lifecycle_turn(workspace_id) as mine:
        while mine and (run := _next_cycle(workspace_id)):
            execute_run(run)


def forget_pending(workspace_id: UUID) -> None:
    """A parking overrules the restarts asked for before it."""
    WorkspaceLifecycle.objects.filter(pk=workspace_id, restart_pending=True).update(
        restart_pending=False, pending_options={}
    )
    drop_context(workspace_id)


def _ask(
    workspace_id: UUID,
    trigger: Trigger,
    reason: str,
    options: Mapping[str, Any],
    *,
    of: Workspace | None = None,
) -> None:
    """Set the flag, merging what was asked before, and ring. The caller has locked the workspace's row, and
    with `of` claimed it.
    """
    WorkspaceLifecycle.objects.bulk_create(
        [WorkspaceLifecycle(workspace_id=workspace_id)], ignore_conflicts=True
    )
    state = WorkspaceLifecycle.objects.select_for_update().get(pk=workspace_id)
    if state.restart_pending:
        count("molecule_restart_coalesced_total")
        evt("restart.coalesced", {"workspace_id": str(workspace_id), "trigger": trigger})
    else:
        state.pending_since, state.pending_options, state.pending_trigger = timezone.now(), {}, None
    if of:
        capture(state, of)
    state.restart_pending = True
    state.pending_options = _merged(state.pending_options, options)
    if not (state.pending_trigger or "").startswith(Trigger.EXPLICIT):
        state.pending_trigger = f"{trigger}:{reason}" if reason else trigger
    state.save()
    enqueue(Job.RESTART_CYCLE, workspace_id=workspace_id)


def _merged(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Later wins field by field, except that a reset stays asked for and the status before the first request
    counts.
    """
    merged = {**earlier, **{key: value for key, value in later.items() if value is not None}}
    if earlier.get("reset_session"):
        merged["reset_session"] = True
    if later.get("prior_status") == Status.PROVISIONING and "prior_status" in earlier:
        merged["prior_status"] = earlier["prior_status"]
    return merged


def _reason_to_drop(row: Workspace, now: datetime) -> str:
    """Why a health check's wish is ignored: '' when it is not. The liveness sweep asks again later."""
    if row.status == Status.PROVISIONING or ledger.has_open_run(row.pk):
        return "running"
    began = WorkspaceLifecycle.objects.filter(pk=row.pk).values_list("cycle_started_at", flat=True).first()
    if began is None:
        return ""
    if now - began < timedelta(seconds=settings.RESTART_DEBOUNCE_SECONDS):
        return "debounce"
    has_called = row.last_heartbeat_at is not None and row.last_heartbeat_at > began
    return "settling" if has_called and now - began < SETTLE else ""


def _next_cycle(workspace_id: UUID) -> ProvisionRun | None:
    """Take the pending flag and claim the run it leads to; None when nothing is to be done."""
    with transaction.atomic():
        row = Workspace.objects.select_for_update().filter(pk=workspace_id).first()
        state = (
            WorkspaceLifecycle.objects.select_for_update()
            .filter(pk=workspace_id, restart_pending=True)
            .first()
        )
        if row is None or state is None:
            return None
        trigger, options, now = state.pending_trigger or "", state.pending_options, timezone.now()
        state.restart_pending, state.pending_options, state.pending_trigger = False, {}, None
        run = None
        if not row.is_managed or row.status in PARKED:
            log.info("restart.skipped", workspace_id=str(workspace_id), status=row.status)
        elif not dispatch.has_provisioner():
            evt("restart.pre_stop", {"workspace_id": str(workspace_id), "backend": dispatch.label()})
            dispatch.refuse(row)
        elif _is_unclaimed(row):
            kind = RunKind.RESTART if trigger.startswith(Trigger.EXPLICIT) else RunKind.AUTO_RESTART
            refresh_keys(state)
            run = _claimed_run(row, kind, trigger, options)
        elif trigger.startswith(Trigger.REACTIVE) and row.status in ALIVE:
            log.info(
                "restart.skipped", workspace_id=str(workspace_id), status=row.status
            )  # it came back by itself
        elif name := paused_ancestor(workspace_id):
            log.info("restart.skipped", workspace_id=str(workspace_id), paused_ancestor=name)
        elif trigger.startswith(Trigger.REACTIVE) and not _may_restart_again(state, now):
            limit = settings.AUTO_RESTART_MAX_PER_HOUR
            message = KEEPS_STOPPING.format(limit=limit)
            transitions.mark_failed(Workspace.objects.filter(pk=row.pk), message, leaving=Status.OFFLINE)
        elif claim := transitions.claim_provisioning(workspace_id):
            kind = RunKind.RESTART if trigger.startswith(Trigger.EXPLICIT) else RunKind.AUTO_RESTART
            capture(state, claim.workspace)
            run = _claimed_run(claim.workspace, kind, trigger, {"prior_status": claim.prior, **options})
        if run:
            state.cycle_started_at = now
        state.save()
        return run


def _is_unclaimed(row: Workspace) -> bool:
    """Whether the accepted start of the row's generation is still to be begun:
    it will read the newest secrets.
    """
    if row.status != Status.PROVISIONING:
        return False
    runs = ProvisionRun.objects.starts().filter(workspace_id=row.pk, generation=row.generation)
    return not runs.exclude(state=RunState.QUEUED).exists()


def _claimed_run(
    row: Workspace, kind: RunKind, trigger: str, options: Mapping[str, Any]
) -> ProvisionRun | None:
    dispatch.announce(row, is_sync=True)
    run = ledger.queue_run(row, kind, backend=dispatch.label(), trigger=trigger, options=options)
    return ledger.claim_run(run.pk)


def _may_restart_again(state: WorkspaceLifecycle, now: datetime) -> bool:
    """Count an automatic restart; False when the workspace has had its share of this hour."""
    recent = [text for text in state.auto_restarts if datetime.fromisoformat(text) > now - timedelta(hours=1)]
    if len(recent) >= settings.AUTO_RESTART_MAX_PER_HOUR:
        state.auto_restarts = recent
        return False
    state.auto_restarts = [*recent, now.isoformat()]
    return True
