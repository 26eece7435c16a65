"""The moves of a workspace row that the platform makes: each one conditional UPDATE and its event, or
nothing.

A claim (`provisioning`, `paused`, `hibernating`) raises the generation, so that whoever worked for the
previous one
finds its writes fenced. None or an empty list means that somebody else was first: nothing was written or
announced.
Source: docs/reference/provisioning.md, States.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from activity.events import EventType, record
from config.states import update_returning
from workspaces.cache import forget, remember_url
from workspaces.models import ALIVE, EXTERNAL, LIVE, PARKED, Status, UrlSource, Workspace, WorkspaceQuerySet
from workspaces.services.moves import move

QUEUE_GRACE = timedelta(hours=1)  # how long an accepted start may wait for a worker
# What a start is called in the metrics, by the statuses it may leave; any other is a restart.
STARTS: Mapping[frozenset[str], str] = {
    frozenset({Status.PAUSED}): "resume",
    frozenset({Status.HIBERNATED}): "wake",
}


@dataclass(frozen=True)
class Claim:
    """A row as the claim left it, and the status to return to when the claim has to be undone."""

    workspace: Workspace
    prior: Status


def claim_provisioning(workspace_id: UUID, *, leaving: Set[str] = LIVE) -> Claim | None:
    """Accept a (re)start of a managed workspace that is in one of the statuses `leaving`."""
    changes = {"active_tasks": 0, "current_task": "", "provision_deadline_at": Now() + QUEUE_GRACE}
    rows = Workspace.objects.managed().filter(pk=workspace_id)
    with transaction.atomic():
        claim = _claim(rows, Status.PROVISIONING, leaving, STARTS.get(frozenset(leaving), "restart"), changes)
        if claim:
            record(EventType.WORKSPACE_PROVISIONING, workspace_id, facts(claim.workspace))
        return claim


def start_clock(workspace_id: UUID, generation: int, timeout: timedelta) -> bool:
    """The start of this generation is being worked on: from now on it has `timeout` to become online."""
    rows = Workspace.objects.at(workspace_id, generation).filter(status=Status.PROVISIONING)
    return bool(rows.update(provision_deadline_at=Now() + timeout))


def mark_started(
    workspace_id: UUID,
    generation: int,
    *,
    url: str,
    internal_url: str,
    instance_id: str | None,
    image_digest: str | None,
) -> Workspace | None:
    """Compute of this generation runs: store where it is reached.

    None: the workspace was parked or claimed since.
    """
    rows = Workspace.objects.at(workspace_id, generation).exclude(status__in=PARKED)
    changes = {"url": url, "url_source": UrlSource.PLATFORM, "instance_id": instance_id,
               "runtime_image_digest": image_digest, "updated_at": Now()}  # fmt: skip
    stored = update_returning(rows, **changes)
    if stored:
        transaction.on_commit(lambda: remember_url(workspace_id, url, internal_url), robust=True)
    return stored[0] if stored else None


def move_address(workspace_id: UUID, generation: int, *, before: str | None, url: str) -> bool:
    """Compute of this generation is reached at `url` now; `before` is what the caller read of the row."""
    rows = Workspace.objects.at(workspace_id, generation).exclude(status__in=PARKED)
    with transaction.atomic():
        stored = rows.filter(url=before, url_source=UrlSource.PLATFORM).update(url=url, updated_at=Now())
        if stored:
            transaction.on_commit(lambda: remember_url(workspace_id, url), robust=True)
        return bool(stored)


def adopt_machine(workspace_id: UUID, generation: int, machine_id: str, *, url: str | None) -> bool:
    """Record the machine of a start whose result could not be stored; False when the row has moved on."""
    rows = Workspace.objects.at(workspace_id, generation).exclude(status__in=PARKED).filter(instance_id=None)
    changes: dict[str, Any] = {"instance_id": machine_id, "updated_at": Now()}
    if url:
        changes |= {"url": url, "url_source": UrlSource.PLATFORM}
    with transaction.atomic():
        adopted = bool(rows.update(**changes))
        if adopted and url:
            transaction.on_commit(lambda: remember_url(workspace_id, url), robust=True)
        return adopted


def clear_address(workspace_id: UUID, generation: int) -> bool:
    """Stop routing to compute that is about to be stopped; a parked row is cleared by its own move."""
    rows = Workspace.objects.at(workspace_id, generation)
    with transaction.atomic():  # so that the cache cannot be filled again from the old row
        transaction.on_commit(lambda: forget(workspace_id), robust=True)
        return bool(rows.update(**_NO_ADDRESS))


def mark_failed(
    rows: WorkspaceQuerySet, message: str, *, leaving: Status = Status.PROVISIONING, **extra: Any
) -> list[Workspace]:
    """Fail those of `rows` (the caller's guards) that are in `leaving`.

    `message` is shown to people as it is.
    """
    with transaction.atomic():
        changes = {"last_sample_error": message, "updated_at": Now()}
        trigger = str(extra.get("source", "provision"))
        moved = move(rows.filter(status=leaving), Status.FAILED, trigger=trigger, **changes)
        for one in moved:
            record(EventType.WORKSPACE_PROVISION_FAILED, one.row.pk, {"error": message, **extra})
        return [one.row for one in moved]


def mark_lost(rows: WorkspaceQuerySet) -> list[Workspace]:
    """Managed rows whose compute or heartbeat is gone, by the caller's guards: offline."""
    return _lose(rows.managed(), Status.OFFLINE)


def mark_away(rows: WorkspaceQuerySet) -> list[Workspace]:
    """External rows whose agent fell silent, by the caller's guards: waiting for it to come back."""
    return _lose(rows.filter(runtime=EXTERNAL), Status.AWAITING_AGENT)


def _lose(rows: WorkspaceQuerySet, target: Status) -> list[Workspace]:
    with transaction.atomic():
        moved = move(rows.filter(status__in=ALIVE), target, trigger="lost", updated_at=Now())
        lost = [one.row for one in moved]
        for row in lost:
            record(EventType.WORKSPACE_OFFLINE, row.pk, {})
            if target == Status.AWAITING_AGENT:
                payload = {"external": True, "reason": "heartbeat_stale"}
                record(EventType.WORKSPACE_AWAITING_AGENT, row.pk, payload)
        transaction.on_commit(lambda: forget(*(row.pk for row in lost)), robust=True)
        return lost


def decline_restart(
    workspace_id: UUID, generation: int, *, prior: Status, error: str, reason: str
) -> Workspace | None:
    """The accepted restart cannot be made, and the old compute still serves: back to what the row was."""
    with transaction.atomic():
        rows = Workspace.objects.at(workspace_id, generation).filter(status=Status.PROVISIONING)
        changes = {"last_sample_error": error, "provision_deadline_at": None, "updated_at": Now()}
        for one in move(rows, prior, trigger="restart_declined", **changes):
            payload = {"name": one.row.name, "runtime": one.row.runtime, "template": one.row.template,
                       "error": error, "reason": reason}  # fmt: skip
            record(EventType.WORKSPACE_RESTART_DECLINED, workspace_id, payload)
            return one.row
        return None


def claim_pause(workspace_id: UUID) -> Claim | None:
    """Park a workspace before its compute is stopped,
    so that no health check sees a dead one and restarts it.
    """
    rows = Workspace.objects.filter(pk=workspace_id)
    return _claim(rows, Status.PAUSED, LIVE - {Status.PAUSED}, "pause", {})


def confirm_pause(workspace_id: UUID, generation: int, *, had_url: bool = False) -> Workspace | None:
    """The stop was acknowledged, or is owed by a durable record: the pause is final, and announced.

    Of several who confirm a row that `had_url`, the one that clears it announces.
    """
    with transaction.atomic():
        changes = {"active_tasks": 0, "current_task": "", **_NO_ADDRESS}
        rows = Workspace.objects.at(workspace_id, generation).filter(status=Status.PAUSED)
        parked = update_returning(rows.filter(url__gt="") if had_url else rows, **changes)
        for row in parked:
            record(EventType.WORKSPACE_PAUSED, workspace_id, {"name": row.name})
            transaction.on_commit(lambda: forget(workspace_id), robust=True)
        return parked[0] if parked else None


def resume_external(workspace_id: UUID) -> Workspace | None:
    """A paused workspace without compute of ours waits for its agent again."""
    with transaction.atomic():
        rows = Workspace.objects.filter(pk=workspace_id, runtime=EXTERNAL, status=Status.PAUSED)
        for one in move(rows, Status.AWAITING_AGENT, trigger="resume", updated_at=Now()):
            payload = {"name": one.row.name, "external": True}
            record(EventType.WORKSPACE_AWAITING_AGENT, workspace_id, payload)
            return one.row
        return None


def claim_hibernation(row: WorkspaceQuerySet) -> Claim | None:
    """Claim the one workspace of `row` for its sleep, if it still meets the caller's conditions."""
    return _claim(row.managed(), Status.HIBERNATING, ALIVE, "hibernate", {})


def confirm_hibernation(workspace_id: UUID, generation: int) -> Workspace | None:
    """The stop was acknowledged: asleep until a message or a person wakes it."""
    with transaction.atomic():
        changes = {"active_tasks": 0, "current_task": "", **_NO_ADDRESS}
        rows = Workspace.objects.at(workspace_id, generation).filter(status=Status.HIBERNATING)
        for one in move(rows, Status.HIBERNATED, trigger="hibernate", **changes):
            payload = {"name": one.row.name, "tier": one.row.tier}
            record(EventType.WORKSPACE_HIBERNATED, workspace_id, payload)
            transaction.on_commit(lambda: forget(workspace_id), robust=True)
            return one.row
        return None


def revert_claim(claim: Claim) -> Workspace | None:
    """The stop failed: the compute still runs, so the row says what it said before the claim."""
    row = claim.workspace
    rows = Workspace.objects.at(row.pk, row.generation).filter(status=row.status)
    reverted = move(rows, claim.prior, trigger="stop_failed", updated_at=Now())
    return reverted[0].row if reverted else None


def facts(row: Workspace) -> dict[str, Any]:
    """What a restart, resume or wake announces of a row that the canvas knows already."""
    return {"name": row.name, "tier": row.tier, "runtime": row.runtime}


_NO_ADDRESS: Mapping[str, Any] = {
    "url": "", "url_source": UrlSource.AGENT, "instance_id": None, "updated_at": Now()
}  # fmt: skip


def _claim(
    rows: WorkspaceQuerySet, target: Status, leaving: Set[str], trigger: str, changes: Mapping[str, Any]
) -> Claim | None:
    """Move the one row of `rows`, raising its generation."""
    here = rows.filter(status__in=leaving)
    moved = move(here, target, trigger=trigger, generation=F("generation") + 1, updated_at=Now(), **changes)
    return Claim(moved[0].row, moved[0].prior) if moved else None
