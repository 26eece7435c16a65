"""Every route of the schedules with its methods and its auth class. Fixed words come before ids."""

from typing import Any

from django.urls import path

from access.permissions import AdminAccess, WorkspaceAccess
from schedules.views import AdminScheduleViewSet, ScheduleViewSet
from workspaces.permissions import PeerAccess


def _of_workspace(**actions: str) -> Any:
    return ScheduleViewSet.as_view({**actions}, permission_classes=[WorkspaceAccess])


_ALL = "workspaces/<workspace_id>/schedules"
_ONE = f"{_ALL}/<str:schedule_id>"
urlpatterns = [
    path(_ALL, _of_workspace(get="list", post="create")),
    path(f"{_ALL}/health", ScheduleViewSet.as_view({"get": "health"}, permission_classes=[PeerAccess])),
    path(_ONE, _of_workspace(patch="partial_update", delete="destroy")),
    path(f"{_ONE}/run", _of_workspace(post="run")),
    path(f"{_ONE}/history", _of_workspace(get="history")),
    path(
        "admin/schedules/health",
        AdminScheduleViewSet.as_view({"get": "health"}, permission_classes=[AdminAccess]),
    ),
]
