"""What tests of the sweeps over compute share: a backend that stands for each engine, and odd compute."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.utils import timezone

from provisioning import dispatch
from provisioning.backends.base import Compute, ComputeState
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ProvisionRun, RunKind, RunState
from workspaces.models import Workspace

MACHINES = frozenset({"boot_bundle", "console", "spot", "exec"})
CONTAINERS = frozenset({"volumes", "exec", "files", "logs", "image_cache", "reset_session"})
OLD = timedelta(minutes=11)
YOUNG = timedelta(minutes=9)


def wired(label: str, capabilities: frozenset[str]) -> InMemoryBackend:
    memory = InMemoryBackend(label, capabilities)
    dispatch.wire(memory)
    return memory


def compute(
    workspace_id: UUID | None = None, generation: int = 1, *, age: timedelta = OLD, **facts: Any
) -> Compute:
    workspace_id = workspace_id or uuid4()
    return Compute(
        workspace_id=workspace_id,
        compute_id=facts.pop("compute_id", f"i-{workspace_id}-{generation}"),
        generation=generation,
        state=facts.pop("state", ComputeState.RUNNING),
        started_at=timezone.now() - age,
        **facts,
    )


def ran(row: Workspace, generation: int, state: RunState = RunState.SUCCEEDED, **facts: Any) -> ProvisionRun:
    """A run of the past."""
    return ProvisionRun.objects.create(
        workspace_id=row.pk, generation=generation, kind=RunKind.CREATE, state=state, **facts
    )
