"""Routes of the schedules. Source: docs/reference/schedules.md."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from config.errors import NotFound
from config.http import parsed
from schedules import selectors, services
from schedules.models import Schedule
from schedules.serializers import PeerOutput, ScheduleInput, ScheduleOutput, health_entry, run_of_history
from workspaces.views import WorkspaceViewSet


class ScheduleViewSet(WorkspaceViewSet):
    def list(self, request: Request, **kwargs: Any) -> Response:
        return Response(ScheduleOutput(self._rows(), many=True).data)

    def health(self, request: Request, **kwargs: Any) -> Response:
        return Response(PeerOutput(self._rows(), many=True).data)

    def create(self, request: Request, **kwargs: Any) -> Response:
        row = services.create_schedule(workspace_id=self.workspace.pk, **parsed(ScheduleInput, request))
        return Response({"id": row.pk, "status": "created", "next_run_at": row.next_run_at}, status=201)

    def partial_update(self, request: Request, schedule_id: str, **kwargs: Any) -> Response:
        services.update_schedule(
            workspace_id=self.workspace.pk,
            schedule_id=_id(schedule_id),
            changes=parsed(ScheduleInput, request, partial=True),
        )
        return Response({"status": "updated"})

    def destroy(self, request: Request, schedule_id: str, **kwargs: Any) -> Response:
        services.delete_schedule(workspace_id=self.workspace.pk, schedule_id=_id(schedule_id))
        return Response({"status": "deleted"})

    def run(self, request: Request, schedule_id: str, **kwargs: Any) -> Response:
        """Sends nothing: the canvas posts the prompt as its user's message."""
        row = self._one(schedule_id)
        return Response({"status": "fired", "workspace_id": row.workspace_id, "prompt": row.prompt})

    def history(self, request: Request, schedule_id: str, **kwargs: Any) -> Response:
        row = self._one(schedule_id)
        return Response([run_of_history(run) for run in selectors.history(row.workspace_id, row.pk)])

    def _rows(self) -> Any:
        return Schedule.objects.filter(workspace=self.workspace).order_by("created_at", "id")

    def _one(self, schedule_id: str) -> Schedule:
        row = Schedule.objects.of(self.workspace.pk, _id(schedule_id)).first()
        if row is None:
            raise NotFound("schedule not found")
        return row


class AdminScheduleViewSet(ViewSet):
    """`/admin/schedules`."""

    def health(self, request: Request) -> Response:
        return Response([health_entry(one) for one in selectors.health(timezone.now())])


def _id(given: str) -> UUID:
    """Raises NotFound: an id that is none names nothing."""
    try:
        return UUID(given)
    except ValueError:
        raise NotFound("schedule not found") from None
