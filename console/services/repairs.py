"""A confirmed repair of leaks, carried out a few at a time by whichever worker has it.

Before each round the plan is made anew: nobody goes who was not confirmed, or whom a plan of now would keep.
A worker that dies leaves a lease that runs out; the sweep rings for it again.
Source: docs/reference/console.md, Repair of leaks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import structlog
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from config.errors import Conflict, DomainError
from config.jobs import Job, enqueue
from config.states import update_returning
from console.models import Outcome, Repair
from console.services.audit import Told, end
from provisioning.duplicate_rules import CleanupPlan, Options
from provisioning.services.duplicates import DEFAULT_MAX, clean_up_duplicates, plan_cleanup
from workspaces.models import Workspace

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=5)  # several times the longest step between two of its renewals
PATIENCE = timedelta(hours=1)  # for another cleanup, or a backend that cannot tell what runs
STALE = "The plan was no longer true when its turn came; nothing was removed. Look at the new one."
CHANGED = "it has changed since, and would be kept now"


@dataclass(frozen=True)
class Progress:
    """How far a repair is, counted on the workspaces themselves."""

    total: int
    left: list[UUID]
    pending: list[UUID]

    @property
    def gone(self) -> int:
        return self.total - len(self.left)


def start_repair(repair_id: UUID, actor: str, options: Options, plan: CleanupPlan) -> Repair:
    """Everything that `plan` would remove, on record; rings for a worker on commit.

    Raises Conflict: the plan removes nothing.
    """
    ids = [member.row.id for member in plan.removable]
    if not ids:
        raise Conflict("there is nothing to remove")
    with transaction.atomic():
        row = Repair.objects.create(
            id=repair_id,
            actor=actor,
            options=asdict(options),
            fingerprint=plan.fingerprint,
            workspace_ids=ids,
        )
        enqueue(Job.REPAIR, repair_id=str(row.pk))
    return row


def stop_repair(repair_id: UUID, actor: str) -> None:
    """It ends after the batch that is under way. Raises Conflict: it has ended, or is stopped already."""
    rows = Repair.objects.filter(pk=repair_id, ended_at=None, stop_asked_by="")
    if not rows.update(stop_asked_by=actor):
        raise Conflict("it has ended, or is stopped already")


def ring_for_open_repairs() -> int:
    """The sweep: those that no living worker has."""
    free = Repair.objects.filter(_FREE).values_list("pk", flat=True)
    for repair_id in free:
        enqueue(Job.REPAIR, repair_id=str(repair_id))
    return len(free)


_FREE = Q(ended_at=None) & (Q(lease_expires_at=None) | Q(lease_expires_at__lt=Now()))


def carry_on(repair_id: UUID) -> None:
    """Work on it until it is done, stopped or has to wait. Nothing when another worker has it."""
    taken = update_returning(
        Repair.objects.filter(_FREE, pk=repair_id),
        lease_owner=uuid4(),
        lease_expires_at=Now() + LEASE,
        note="",
    )
    for row in taken:
        try:
            while _round(row):
                row.refresh_from_db()
        except DomainError as error:
            _wait(row, error.text)
        except Exception:  # whatever it is, it must not be tried for ever
            log.exception("repair.round_failed", repair_id=str(row.pk))
            _wait(row, "an error of the server")


def progress(row: Repair) -> Progress:
    mine = Workspace.objects.filter(pk__in=row.workspace_ids)
    left = set(mine.live().values_list("pk", flat=True))
    owing = set(mine.filter(cleanup_pending=True).values_list("pk", flat=True)) - left
    return Progress(
        len(row.workspace_ids),
        [one for one in row.workspace_ids if one in left],
        [one for one in row.workspace_ids if one in owing],
    )


def _round(row: Repair) -> bool:
    """One batch. False: it has ended, or is no longer this worker's."""
    left = [one for one in progress(row).left if str(one) not in row.failures]
    if row.stop_asked_by or not left:
        return _finish(row)
    options = Options(**row.options)
    plan = plan_cleanup(options)
    if not row.has_begun and plan.fingerprint != row.fingerprint:
        return _finish(row, Told(STALE, Outcome.REFUSED))
    removable = {member.row.id for member in plan.removable}
    kept = [one for one in left if one not in removable]
    chosen = [one for one in left if one in removable][:DEFAULT_MAX]
    if not _keep(row, failures=row.failures | dict.fromkeys(map(str, kept), CHANGED)):
        return False
    if not chosen:
        return True
    # It begins with the lock in hand: until then another cleanup may make its plan untrue.
    done = clean_up_duplicates(
        options,
        fingerprint=plan.fingerprint,
        ids=chosen,
        limit=len(chosen),
        actor=f"console:{row.actor}",
        goes_on=lambda: _keep(row, has_begun=True) and not _is_stopped(row),
    )
    row.refresh_from_db()
    return _keep(
        row,
        failures=row.failures | {one["workspace_id"]: one["error"] for one in done.failures},
        leftovers=sorted({*row.leftovers, *(done.leftovers or [])}),
        freed_vcpus=F("freed_vcpus") + done.freed_vcpus,
    )


def _is_stopped(row: Repair) -> bool:
    return Repair.objects.filter(pk=row.pk).exclude(stop_asked_by="").exists()


def _keep(row: Repair, **changes: object) -> bool:
    """Write as the holder of the lease, which is renewed. False: it is another's by now."""
    mine = Repair.objects.filter(pk=row.pk, lease_owner=row.lease_owner, ended_at=None)
    return bool(mine.update(lease_expires_at=Now() + LEASE, **changes))


def _wait(row: Repair, why: str) -> None:
    """Give it back; the sweep rings again, until its patience is over."""
    mine = Repair.objects.filter(pk=row.pk, lease_owner=row.lease_owner, ended_at=None)
    if mine.filter(created_at__lt=Now() - PATIENCE).exists():
        _finish(row, Told(f"{_summary(row)} It gave up: {why}.", Outcome.FAILED))
    elif mine.update(lease_owner=None, lease_expires_at=None, note=why):
        log.info("repair.waits", repair_id=str(row.pk), why=why)


def _finish(row: Repair, told: Told | None = None) -> bool:
    with transaction.atomic():
        mine = Repair.objects.filter(pk=row.pk, lease_owner=row.lease_owner, ended_at=None)
        for ended in update_returning(mine, ended_at=Now(), lease_owner=None, lease_expires_at=None):
            end(ended.pk, told or Told(_summary(ended), _outcome(ended)))
    return False


def _outcome(row: Repair) -> Outcome:
    found = progress(row)
    if not found.gone:
        return Outcome.REFUSED
    return Outcome.PARTLY if found.left or found.pending or row.leftovers else Outcome.DONE


def _summary(row: Repair) -> str:
    found = progress(row)
    parts = [f"{found.gone} of {found.total} are gone, {row.freed_vcpus:g} vCPU freed."]
    if row.stop_asked_by:
        parts.append(f"Stopped by {row.stop_asked_by}.")
    if row.failures:
        named = ", ".join(f"{one} ({why})" for one, why in row.failures.items())
        parts.append(f"Not removed: {named}.")
    parts += _named("Their stop is still owed", found.pending)
    parts += _named("Still running", row.leftovers)
    left = set(found.left)
    parts += _named("Not reached", [one for one in found.left if str(one) not in row.failures])
    parts += _named("Gone", [one for one in row.workspace_ids if one not in left])
    return " ".join(parts)


def _named(what: str, ones: Iterable[object]) -> list[str]:
    text = ", ".join(map(str, ones))
    return [f"{what}: {text}."] if text else []
