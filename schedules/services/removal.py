"""What a removal does to the schedules of its subtree. Filled into `workspaces.hooks`."""

from __future__ import annotations

from uuid import UUID

from django.db.models.functions import Now

from schedules.models import Schedule


def stop_with_workspaces(ids: list[UUID]) -> None:
    """In the transaction of the removal. They remember that they ran: a successor may take them over."""
    running = Schedule.objects.filter(workspace_id__in=ids, enabled=True)
    running.update(enabled=False, stopped_by_removal=True, updated_at=Now())
