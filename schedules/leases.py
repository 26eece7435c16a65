"""Who waits for an agent now: the leases of the runs that this process fires.

Source: docs/reference/schedules.md, A run.
"""

from __future__ import annotations

from django.db.models.functions import Now

from config.leases import LEASE, Keeper
from schedules.models import Schedule


def renew(ids: list[str]) -> int:
    held = Schedule.objects.in_flight().filter(pk__in=ids, lease_expires_at__isnull=False)
    return held.update(lease_expires_at=Now() + LEASE)


keeper = Keeper(renew)
