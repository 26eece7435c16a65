"""What operators ask about compute and clean up. Source: docs/reference/provisioning.md, Routes."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from provisioning.services.plans import plan_start
from workspaces.views import WorkspaceViewSet


class PlanViewSet(WorkspaceViewSet):
    """`POST /workspaces/:id/provision-plan`."""

    def create(self, request: Request, **kwargs: Any) -> Response:
        return Response(plan_start(self.workspace))
