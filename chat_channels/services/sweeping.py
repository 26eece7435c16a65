"""The tick of `channel-manager`: what a lost ring or a dead worker has left, and what is old.

Source: docs/reference/chat_channels.md, Manager.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from chat_channels.models import ChannelMessage, Status
from chat_channels.services.delivering import examine
from config.jobs import Job, enqueue

BATCH = 500
PATIENCE = timedelta(seconds=30)  # a worker is given so long to come after its ring
KEPT = timedelta(days=7)  # longer than any provider repeats a delivery


@dataclass(frozen=True)
class Swept:
    rung: int = 0
    examined: int = 0
    pruned: int = 0


def sweep(now: datetime) -> Swept:
    """Running it twice changes nothing."""
    free = Q(lease_expires_at=None) | Q(lease_expires_at__lt=now)
    left = ChannelMessage.objects.filter(
        free,
        status__in=[Status.RECEIVED, Status.SENDING, Status.ANSWERED],
        status_changed_at__lt=now - PATIENCE,
    )
    rung = examined = 0
    for row in left.order_by("status_changed_at")[:BATCH]:
        if row.status == Status.SENDING:
            examine(row)
            examined += 1
        else:
            enqueue(Job.CHANNEL_DELIVER, message_id=row.pk)
            rung += 1
    old = ChannelMessage.objects.filter(created_at__lt=now - KEPT).order_by("created_at")
    ids = list(old.values_list("pk", flat=True)[:BATCH])
    pruned = ChannelMessage.objects.filter(pk__in=ids).delete()[0] if ids else 0
    return Swept(rung, examined, pruned)
