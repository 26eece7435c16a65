"""Questions for tests that are about their answers."""

from __future__ import annotations

from factory import SubFactory
from factory.django import DjangoModelFactory

from approvals.models import Approval
from tests.workspaces.factories import WorkspaceFactory


class ApprovalFactory(DjangoModelFactory[Approval]):
    class Meta:
        model = Approval

    workspace = SubFactory(WorkspaceFactory)
    action = "deploy to production"
