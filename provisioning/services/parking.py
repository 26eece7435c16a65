"""Pause, resume, hibernate: rows are claimed first, compute follows, and the answer says what really
happened.

Source: docs/reference/provisioning.md, Parking.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import structlog
from django.db import transaction

from config.errors import BadGateway, BadRequest, Conflict, Internal, NotFound, Unavailable
from config.evt import evt
from provisioning import dispatch, ledger
from provisioning.models import ProvisionRun, RunKind
from provisioning.services.execution import owe_stop
from provisioning.services.restarts import forget_pending
from provisioning.services.stops import Outcome, stop_all
from workspaces.models import ALIVE, EXTERNAL, Status, Workspace, WorkspaceQuerySet
from workspaces.selectors import paused_ancestor, subtree
from workspaces.services import transitions
from workspaces.services.transitions import Claim

log = structlog.get_logger(__name__)

PAUSE_BUDGET_S = 60.0
HIBERNATE_BUDGET_S = 60.0


@dataclass
class Result:
    """What became of a pause or a resume: rows moved (or, in a dry run, those that would be),
    and what failed where.
    """

    moved: list[UUID] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    def fail(self, workspace_id: UUID, stage: str) -> None:
        self.failures.append({"workspace_id": str(workspace_id), "stage": stage})


def pause(workspace_id: UUID, *, cascade: bool, dry_run: bool) -> Result:
    """Park a workspace and (`cascade`) everything below it.

    Raises NotFound when it is parked already or gone.
    """
    wanted = subtree(workspace_id) if cascade else [workspace_id]
    parkable = set(
        Workspace.objects.live()
        .filter(pk__in=wanted)
        .exclude(status=Status.PAUSED)
        .values_list("pk", flat=True)
    )
    if workspace_id not in parkable:
        raise NotFound("workspace not found or already paused")
    members = [one for one in wanted if one in parkable]
    if dry_run:
        return Result(members)
    result = Result()
    claims = {one: claim for one in members if (claim := _claim_pause(one, result))}
    managed = [
        (one, claim.workspace.generation) for one, claim in claims.items() if claim.workspace.is_managed
    ]
    for one in claims.keys() - {one for one, _ in managed}:
        _confirm_pause(claims[one], result)
    for one, outcome in stop_all(managed, budget_s=PAUSE_BUDGET_S):
        if outcome is Outcome.FAILED:
            transitions.revert_claim(claims[one])
            result.fail(one, "stop")
            continue
        if outcome is not Outcome.STOPPED:
            owe_stop(one, claims[one].workspace.generation)
        _confirm_pause(claims[one], result)
    if not claims:
        raise NotFound("workspace not found or already paused")  # somebody was quicker
    return result


def resume(workspace_id: UUID, *, cascade: bool, dry_run: bool) -> Result:
    """Start a paused workspace and (`cascade`) the paused ones below it, reached through paused ones; parents
    first.

    Raises NotFound (not paused), Conflict (an ancestor is paused), Unavailable (no backend).
    """
    row = Workspace.objects.filter(pk=workspace_id, status=Status.PAUSED).first()
    if row is None:
        raise NotFound("workspace not found or not paused")
    if name := paused_ancestor(workspace_id):
        raise Conflict(f'parent workspace "{name}" is paused — resume it first')
    members = _paused_below(workspace_id) if cascade else [row]
    if any(one.is_managed for one in members) and not dispatch.has_provisioner():
        raise Unavailable("provisioner not available")
    if dry_run:
        return Result([one.pk for one in members])
    result = Result()
    for one in members:
        if _resume(one):
            result.moved.append(one.pk)
        else:
            result.fail(one.pk, "claim")
    if not result.moved:
        raise NotFound("workspace not found or not paused")  # somebody was quicker
    return result


def wake(workspace_id: UUID) -> bool:
    """Start a hibernated workspace because somebody needs it: of any number who ask at once one does.

    Whether it is on its way. Not below a paused ancestor, and not without a backend. Unlike an automatic
    restart this is the one exit of a sleeping row.
    """
    if not dispatch.has_provisioner() or paused_ancestor(workspace_id):
        return False
    with transaction.atomic():
        claim = transitions.claim_provisioning(workspace_id, leaving={Status.HIBERNATED})
        if claim:
            dispatch.provision_async(claim.workspace, kind=RunKind.WAKE, trigger="message")
    return True


def is_waking(row: Workspace) -> bool:
    """Whether the start under way is one that a message asked for."""
    if row.status != Status.PROVISIONING:
        return False
    runs = ProvisionRun.objects.filter(workspace_id=row.pk, generation=row.generation)
    return runs.filter(kind=RunKind.WAKE).exists()


def hibernate(workspace_id: UUID, *, force: bool) -> None:
    """Put an idle workspace to sleep. Raises what the route answers when it could not be done."""
    row = Workspace.objects.filter(pk=workspace_id, status__in=ALIVE).first()
    if row is None:
        raise NotFound("workspace not found or not in a hibernatable state (must be online or degraded)")
    if not row.is_managed:
        raise BadRequest("external workspaces cannot be hibernated")
    if row.active_tasks and not force:
        text = "workspace has active tasks; use ?force=true to terminate them"
        raise Conflict(text, active_tasks=row.active_tasks)
    rows = Workspace.objects.filter(pk=workspace_id)
    claim = _claim_hibernation(rows if force else rows.filter(active_tasks=0))
    if claim is None:
        raise Conflict("workspace could not be hibernated", workspace_id=str(workspace_id))
    _put_to_sleep(claim)


def hibernate_idle(row: WorkspaceQuerySet) -> bool:
    """Hibernate the one workspace of `row` if it still meets the conditions in there; False when it does not.

    Raises like `hibernate` when it cannot be stopped.
    """
    claim = _claim_hibernation(row)
    if claim:
        _put_to_sleep(claim)
    return claim is not None


def _put_to_sleep(claim: Claim) -> None:
    workspace_id, generation = claim.workspace.pk, claim.workspace.generation
    for _, outcome in stop_all([(workspace_id, generation)], budget_s=HIBERNATE_BUDGET_S):
        if outcome is not Outcome.STOPPED:
            if outcome is not Outcome.UNFINISHED:  # its stop may yet succeed; a sweep finishes what is left
                transitions.revert_claim(claim)
            raise BadGateway("workspace could not be stopped")
    if transitions.confirm_hibernation(workspace_id, generation) is None:
        raise Internal("workspace was stopped, but its hibernation could not be recorded")


@transaction.atomic
def _claim_pause(workspace_id: UUID, result: Result) -> Claim | None:
    claim = transitions.claim_pause(workspace_id)
    if claim is None:
        result.fail(workspace_id, "claim")
    else:
        forget_pending(workspace_id)
    return claim


def _confirm_pause(claim: Claim, result: Result) -> None:
    row = claim.workspace
    if finish_pause(row.pk, row.generation, had_url=bool(row.url)):
        evt("stop.ok", {"workspace_id": str(row.pk), "source": "pause", "backend": dispatch.label()})
    # Not confirmed: resumed or removed meanwhile, or a sweep was quicker. The pause happened all the same.
    result.moved.append(row.pk)


@transaction.atomic
def finish_pause(workspace_id: UUID, generation: int, *, had_url: bool) -> bool:
    """Make a pause final and end the starts it overtook; False when somebody else was first."""
    if not transitions.confirm_pause(workspace_id, generation, had_url=had_url):
        return False
    ledger.cancel_runs(workspace_id, up_to=generation)
    return True


@transaction.atomic
def _claim_hibernation(row: WorkspaceQuerySet) -> Claim | None:
    claim = transitions.claim_hibernation(row)
    if claim:
        forget_pending(claim.workspace.pk)
    return claim


@transaction.atomic
def _resume(row: Workspace) -> bool:
    if row.runtime == EXTERNAL:
        return transitions.resume_external(row.pk) is not None
    claim = transitions.claim_provisioning(row.pk, leaving={Status.PAUSED})
    return claim is not None and dispatch.provision_async(
        claim.workspace, kind=RunKind.RESUME, trigger="explicit"
    )


def _paused_below(root_id: UUID) -> list[Workspace]:
    """The root and its paused descendants whose ancestors up to the root are all paused, parents first."""
    ids = subtree(root_id)
    rows = {row.pk: row for row in Workspace.objects.filter(pk__in=ids, status=Status.PAUSED)}
    reached = {root_id}
    for one in ids:
        if one in rows and rows[one].parent_id in reached:
            reached.add(one)
    return [rows[one] for one in ids if one in reached and one in rows]
