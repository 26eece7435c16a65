"""What an operator may do with a workspace: what it would touch, and doing it.

Source: docs/reference/console.md, Workspaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from config.errors import BadRequest, Conflict, NotFound, Unavailable
from console.models import Outcome
from console.services.audit import Told
from provisioning import services as provisioning
from workspaces import services
from workspaces.models import ALIVE, LIVE, Status, Workspace
from workspaces.selectors import paused_ancestor, subtree


@dataclass(frozen=True)
class Verb:
    """`affects` names the workspaces it would touch, and raises what the product would answer.

    `does` is given the row and those that were shown."""

    label: str
    says: str
    permission: str
    affects: Callable[[Workspace], Sequence[UUID]]
    does: Callable[[Workspace, Sequence[UUID]], Told]


def _restartable(row: Workspace) -> list[UUID]:
    if row.status not in LIVE:
        raise NotFound("the workspace has been removed")
    if name := paused_ancestor(row.pk):
        raise Conflict(f'parent workspace "{name}" is paused — resume it first')
    if not row.is_managed:
        raise Conflict("it runs elsewhere; restart the agent where it runs")
    if not provisioning.has_provisioner():
        raise Unavailable("provisioner not available")
    return [row.pk]


def _restart(row: Workspace, _: Sequence[UUID]) -> Told:
    _restartable(row)
    if provisioning.accept_restart(row.pk, {}) is None:
        raise NotFound("workspace not found")
    return Told("The restart is accepted; the start is under way.")


def _pausable(row: Workspace) -> list[UUID]:
    return provisioning.pause(row.pk, cascade=True, dry_run=True).moved


def _pause(row: Workspace, _: Sequence[UUID]) -> Told:
    return _told(provisioning.pause(row.pk, cascade=True, dry_run=False), "paused")


def _resumable(row: Workspace) -> list[UUID]:
    return provisioning.resume(row.pk, cascade=True, dry_run=True).moved


def _resume(row: Workspace, _: Sequence[UUID]) -> Told:
    return _told(provisioning.resume(row.pk, cascade=True, dry_run=False), "resumed")


def _sleepy(row: Workspace) -> list[UUID]:
    if row.status not in ALIVE:
        raise NotFound("only an online or degraded workspace can be hibernated")
    if not row.is_managed:
        raise BadRequest("external workspaces cannot be hibernated")
    if row.active_tasks:
        raise Conflict(f"it has {row.active_tasks} active task(s); wait, or pause it")
    return [row.pk]


def _hibernate(row: Workspace, _: Sequence[UUID]) -> Told:
    provisioning.hibernate(row.pk, force=False)
    return Told("It sleeps; a message wakes it.")


def _removable(row: Workspace) -> list[UUID]:
    if row.status == Status.REMOVED:
        raise NotFound("the workspace has been removed")
    return subtree(row.pk)


def _remove(row: Workspace, shown: Sequence[UUID]) -> Told:
    """Nobody goes who was not shown: a workspace that came below it meanwhile refuses the whole."""
    removal = services.remove_workspace(workspace_id=row.pk, confirmed=True, only=frozenset(shown))
    failures = provisioning.teardown(services.owing_stop(row.pk))
    gone = f"{len(removal.ids)} workspace(s) removed"
    if failures:
        return Told(f"{gone}; {failures} could not be stopped yet, and are tried again.", Outcome.PARTLY)
    return Told(f"{gone}.")


def _told(result: provisioning.Result, verb: str) -> Told:
    text = f"{len(result.moved)} workspace(s) {verb}"
    if not result.failures:
        return Told(f"{text}.")
    named = ", ".join(f"{one['workspace_id']} ({one['stage']})" for one in result.failures)
    return Told(f"{text}; not: {named}.", Outcome.PARTLY if result.moved else Outcome.FAILED)


VERBS: dict[str, Verb] = {
    "restart": Verb(
        "Restart",
        "Its compute is stopped and started anew with the newest configuration. What it works on is cut off.",
        "console.operate",
        _restartable,
        _restart,
    ),
    "pause": Verb(
        "Pause",
        "It and all below it are stopped and stay so until somebody resumes them.",
        "console.operate",
        _pausable,
        _pause,
    ),
    "resume": Verb(
        "Resume",
        "It and the paused ones below it are started again.",
        "console.operate",
        _resumable,
        _resume,
    ),
    "hibernate": Verb(
        "Hibernate",
        "Its compute is stopped; the next message for it starts it again.",
        "console.operate",
        _sleepy,
        _hibernate,
    ),
    "remove": Verb(
        "Remove",
        "It and all below it are removed for good: compute stopped, tokens revoked, storage deleted.",
        "console.administer",
        _removable,
        _remove,
    ),
}
