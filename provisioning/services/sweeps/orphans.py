"""An engine of this host: containers and stored data that no row wants, tokens whose container is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar
from uuid import UUID

import structlog
from django.conf import settings

from access.models import TokenKind
from access.services import holders_of_unused_tokens, revoke_tokens
from config.evt import evt
from config.jobs import Job
from provisioning import dispatch
from provisioning.backends.base import Compute, ComputeState, Storage
from provisioning.leases import lifecycle_turn
from provisioning.selectors import standings
from provisioning.services.sweeps.reaping import REAP, reap, record_scan, refuses
from provisioning.services.sweeps.rows import BATCH, acted, each, independently
from provisioning.verdicts import Standing, is_older, is_refused, judged
from workspaces.models import Status, Workspace

log = structlog.get_logger(__name__)
T = TypeVar("T")
JOB = Job.ORPHAN_SWEEPER
TOKEN_UNUSED = timedelta(minutes=5)


def sweep_containers(now: datetime) -> int:
    """Three passes, none of which waits for another to succeed: containers, stored data, tokens."""
    computes, storage = _listed(dispatch.list_managed), _listed(dispatch.list_storage)
    owners = {one.workspace_id for one in computes.found} | {one.workspace_id for one in storage.found}
    rows = standings(owners, with_runs=False)  # names are unique on an engine: no duplicates to find
    return independently(
        lambda: _reap_containers(computes.whole(), rows, now),
        lambda: _remove_unowned(storage.whole(), rows, now),
        lambda: _revoke_unused({one.workspace_id for one in computes.whole()}, now),
    )


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


def _reap_containers(computes: Sequence[Compute], rows: Mapping[UUID, Standing], now: datetime) -> int:
    findings = [one for one in judged(computes, rows, now) if one.compute]
    is_held = refuses(JOB, findings)
    record_scan(JOB, findings, is_held=is_held)
    return 0 if is_held else reap(JOB, findings)


def _remove_unowned(storage: Sequence[Storage], rows: Mapping[UUID, Standing], now: datetime) -> int:
    """What is stored for workspaces that no row knows, once it is old enough."""
    everybody = {one.workspace_id for one in storage}
    young = {one.workspace_id for one in storage if not is_older(one.created_at, now)}
    unowned = sorted(everybody - young - rows.keys())
    if is_refused(len(unowned), len(everybody)):
        evt("sweep.refused", {"sweep": JOB, "candidates": len(unowned), "managed": len(everybody)})
        log.error("sweep.refused", sweep=JOB, candidates=len(unowned), managed=len(everybody), what="storage")
        return 0
    if settings.COMPUTE_REAP_MODE != REAP:
        return 0
    return each(unowned[:BATCH], _remove_storage)


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
