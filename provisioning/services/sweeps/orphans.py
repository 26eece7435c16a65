"""An engine of this host: containers and stored data that no row wants, tokens whose container is gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar
from uuid import UUID

from django.conf import settings

from access.models import TokenKind
from access.services import holders_of_unused_tokens, revoke_tokens
from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.base import Compute, ComputeState, Storage
from provisioning.leases import lifecycle_turn
from provisioning.selectors import recorded, standings
from provisioning.services.sweeps.reaping import REAP, reap, record_scan, refuses
from provisioning.services.sweeps.rows import BATCH, acted, each, independently
from provisioning.verdicts import Standing, is_older, judged
from workspaces.models import Status, Workspace

T = TypeVar("T")
JOB = Job.ORPHAN_SWEEPER
TOKEN_UNUSED = timedelta(minutes=5)


def sweep_containers(now: datetime, *, is_ordered: bool = False, is_forced: bool = False) -> int:
    """Three passes, none of which waits for another to succeed: containers, stored data, tokens.

    `is_ordered`: by an operator, who overrules COMPUTE_REAP_MODE; `is_forced`: and the breaker.
    """
    order = _Order(is_ordered, is_forced)
    computes, storage = _listed(dispatch.list_managed), _listed(dispatch.list_storage)
    owners = {one.workspace_id for one in computes.found} | {one.workspace_id for one in storage.found}
    rows = standings(owners, with_runs=False)  # names are unique on an engine: no duplicates to find
    return independently(
        lambda: _reap_containers(computes.whole(), rows, now, order),
        lambda: _remove_unowned(storage.whole(), rows, now, order),
        lambda: _revoke_unused({one.workspace_id for one in computes.whole()}, now),
    )


def unowned_storage(now: datetime) -> list[UUID]:
    """Workspaces that no row knows and for whom something is stored for longer than a start takes."""
    storage = dispatch.list_storage()
    rows = standings((one.workspace_id for one in storage), with_runs=False)
    return _unowned(storage, rows, now)


@dataclass(frozen=True)
class _Order:
    is_given: bool
    is_forced: bool

    @property
    def acts(self) -> bool:
        return self.is_given or settings.COMPUTE_REAP_MODE == REAP


@dataclass(frozen=True)
class _Listing(Generic[T]):
    """What a list gave. One that could not be had never counts as empty: `whole` raises."""

    found: Sequence[T] = ()
    error: Exception | None = None

    def whole(self) -> Sequence[T]:
        if self.error:
            raise self.error
        return self.found


def _listed(ask: Callable[[], list[T]]) -> _Listing[T]:
    try:
        return _Listing(ask())
    except Exception as error:
        return _Listing(error=error)


def _reap_containers(
    computes: Sequence[Compute], rows: Mapping[UUID, Standing], now: datetime, order: _Order
) -> int:
    findings = [one for one in judged(computes, rows, now) if one.compute]
    strangers = _strangers({one.workspace_id for one in findings if one.is_doomed and not one.standing})
    is_held = not order.is_forced and refuses(JOB, len(strangers), len(findings))
    record_scan(JOB, findings, refused=len(strangers) if is_held else 0)
    held = strangers if is_held else set()
    return reap(JOB, [one for one in findings if one.workspace_id not in held], is_ordered=order.is_given)


def _remove_unowned(
    storage: Sequence[Storage], rows: Mapping[UUID, Standing], now: datetime, order: _Order
) -> int:
    """What is stored for workspaces that no row knows, once it is old enough."""
    unowned = _unowned(storage, rows, now)
    strangers = _strangers(unowned)
    everybody = {one.workspace_id for one in storage}
    if not order.is_forced and refuses(JOB, len(strangers), len(everybody), what="storage"):
        unowned = [one for one in unowned if one not in strangers]
    return each(unowned[:BATCH], _remove_storage) if order.acts else 0


def _unowned(storage: Sequence[Storage], rows: Mapping[UUID, Standing], now: datetime) -> list[UUID]:
    everybody = {one.workspace_id for one in storage}
    young = {one.workspace_id for one in storage if not is_older(one.created_at, now)}
    return sorted(everybody - young - rows.keys())


def _strangers(rowless: Collection[UUID]) -> set[UUID]:
    """Those that this database has never started. Of leftovers of purged workspaces it knows the starts; what
    it knows nothing of may be another database's: this one may be wrong, or restored.
    """
    return set(rowless) - recorded(rowless)


def _remove_storage(workspace_id: UUID) -> bool:
    with lifecycle_turn(workspace_id) as mine:
        if not mine or Workspace.objects.filter(pk=workspace_id).exists():
            return False
        if dispatch.status(workspace_id) != ComputeState.NOT_RUNNING:
            return False  # its container goes first
        dispatch.remove_storage(workspace_id)
    return acted(JOB, workspace_id, "storage_removed")


def _revoke_unused(present: Set[UUID], now: datetime) -> int:
    """Tokens of compute that is gone. Nobody's whose runtime is external, and none that was just minted."""
    unused_since = now - TOKEN_UNUSED
    rows = (
        Workspace.objects.managed()
        .exclude(status__in=[Status.REMOVED, Status.PROVISIONING])
        .filter(pk__in=holders_of_unused_tokens(TokenKind.INSTANCE, unused_since))
        .exclude(pk__in=present)
    )
    return each(rows.order_by("pk")[:BATCH], lambda row: _revoke(row.pk, unused_since))


def _revoke(workspace_id: UUID, unused_since: datetime) -> bool:
    revoked = revoke_tokens(workspace_id=workspace_id, kind=TokenKind.INSTANCE, unused_since=unused_since)
    return bool(revoked) and acted(JOB, workspace_id, "tokens_revoked", tokens=revoked)
