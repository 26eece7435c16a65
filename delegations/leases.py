"""Who waits for a callee now: the leases of the delegations that this process has sent.

Source: docs/reference/delegations.md, The executor.
"""

from __future__ import annotations

from django.db.models.functions import Now

from config.leases import LEASE, Keeper
from delegations.models import Delegation, Status


def renew(ids: list[str]) -> int:
    held = Delegation.objects.filter(pk__in=ids, status=Status.DISPATCHED, lease_expires_at__isnull=False)
    return held.update(lease_expires_at=Now() + LEASE)


keeper = Keeper(renew)
