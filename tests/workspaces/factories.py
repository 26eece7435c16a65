"""Rows of the tree for tests that are about something else."""

from __future__ import annotations

from factory import Sequence
from factory.django import DjangoModelFactory

from workspaces.models import Status, Workspace


class WorkspaceFactory(DjangoModelFactory[Workspace]):
    class Meta:
        model = Workspace

    name = Sequence(lambda number: f"workspace {number}")
    tier = 3
    status = Status.ONLINE
    runtime = "langgraph"
    generation = 1
