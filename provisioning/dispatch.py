"""The only module that chooses a backend and calls it: every start, stop and probe of compute passes here.

Without a backend each verb keeps its promise all the same: a start fails at once with a sentence that helps,
a stop succeeds because there is nothing to stop. Source: docs/reference/provisioning.md, Dispatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction

from config.evt import evt
from provisioning.backends.base import (
    Backend,
    BackendError,
    Compute,
    ComputeState,
    Entry,
    ErrorClass,
    File,
    ImageInfo,
    Plan,
    Shell,
    Started,
    StartSpec,
    Storage,
)
from provisioning.backends.process import ProcessBackend
from provisioning.ledger import queue_run, recorded_compute
from provisioning.models import RunKind
from provisioning.registry import check_image
from workspaces.models import Workspace
from workspaces.services import transitions

log = structlog.get_logger(__name__)

NO_BACKEND = (
    "no provisioning backend available: "
    "this workspace needs a Docker daemon (self-hosted) or the EC2 backend (SaaS)"
)

_wired: Backend | None = None
_is_chosen = False


def wire(backend: Backend | None) -> None:
    """Use `backend`, or none, from now on."""
    global _wired, _is_chosen
    _wired, _is_chosen = backend, True


def choose_again() -> None:
    """Forget what was wired; the settings decide at the next use."""
    global _is_chosen
    _is_chosen = False


def has_provisioner() -> bool:
    return _chosen() is not None


def label() -> str:
    """The backend's name in logs and in the ledger."""
    backend = _chosen()
    return backend.label if backend else "none"


def rents_machines() -> bool:
    """Whether each workspace has a machine of its own at a provider, which fetches its start from us.

    Such compute is compared with the rows once a minute, and not every few seconds.
    """
    return offers("boot_bundle")


def missing_machine_settings() -> list[str]:
    """The names of the settings without which no machine can be made."""
    from provisioning.backends.ec2 import missing_settings

    return missing_settings()


def provision_async(
    workspace: Workspace,
    *,
    kind: RunKind = RunKind.CREATE,
    trigger: str = "",
    options: Mapping[str, Any] | None = None,
    requested_by: str = "",
) -> bool:
    """Queue the start of the row's current generation.

    Without a backend: mark the row failed and return False.
    """
    announce(workspace, is_sync=False)
    if not has_provisioner():
        refuse(workspace)
        return False
    with transaction.atomic():
        queue_run(
            workspace, kind, backend=label(), trigger=trigger, options=options, requested_by=requested_by
        )
    return True


def refuse(workspace: Workspace) -> None:
    """Fail a start that no backend can make, here and not by a timeout later."""
    transitions.mark_failed(Workspace.objects.at(workspace.pk, workspace.generation), NO_BACKEND)


def announce(workspace: Workspace, *, is_sync: bool) -> None:
    fields = {
        "workspace_id": str(workspace.pk),
        "name": workspace.name,
        "tier": workspace.tier,
        "runtime": workspace.runtime,
        "template": workspace.template or "",
        "sync": is_sync,
    }
    evt("provision.start", fields)


def ensure_image(spec: StartSpec) -> ImageInfo:
    return _backend().ensure_image(spec)


def start(spec: StartSpec) -> Started:
    """Raises BackendError."""
    return _backend().start(spec)


def stop(workspace_id: UUID, *, below_generation: int | None = None) -> None:
    """Return once the compute (of lower generations) is gone; without a backend there is none.

    Raises BackendError.
    """
    if has_provisioner():
        _backend().stop(workspace_id, below_generation)


def stop_compute(workspace_id: UUID, compute_id: str) -> None:
    """Return once exactly this piece of compute is gone. Raises BackendError."""
    if has_provisioner():
        _backend().stop_compute(workspace_id, compute_id)


def status(workspace_id: UUID) -> ComputeState:
    return _backend().status(workspace_id) if has_provisioner() else ComputeState.UNKNOWN


def list_managed() -> list[Compute]:
    """All compute of this deployment. Raises BackendError, or whatever kept the backend from telling."""
    return _backend().list_managed()


def offers(capability: str) -> bool:
    """Whether the wired backend has `capability`; never which backend it is."""
    backend = _chosen()
    return backend is not None and capability in backend.capabilities


def list_storage() -> list[Storage]:
    """All storage of this deployment's workspaces. Raises like `list_managed`."""
    return _backend().list_storage()


def remove_storage(workspace_id: UUID) -> None:
    if has_provisioner():
        _backend().remove_storage(workspace_id)


def refresh_image(runtime: str) -> ImageInfo:
    """Fetch the newest image of `runtime`; stops nothing. Raises BackendError."""
    return _backend().refresh_image(runtime)


def dry_run(spec: StartSpec) -> Plan:
    """What a start would create; creates nothing. Raises BackendError."""
    return _backend().dry_run(spec)


def finish_boot(workspace_id: UUID) -> None:
    """Take away what only a booting machine needs. Raises BackendError."""
    if has_provisioner():
        _backend().finish_boot(workspace_id)


def logs(workspace_id: UUID, tail: int) -> str:
    """The last `tail` lines of the workspace's output. Raises BackendError."""
    return _backend().logs(workspace_id, tail)


def console(workspace_id: UUID) -> str:
    """What the workspace's machine printed while it booted. Raises BackendError."""
    return _backend().console(workspace_id)


def open_shell(workspace_id: UUID, idle_s: int) -> Shell:
    """A terminal inside the workspace's compute. Raises BackendError, NotRunning among them."""
    return _backend().open_shell(workspace_id, idle_s)


def list_files(workspace_id: UUID, root: str, path: str, depth: int) -> list[Entry]:
    """Raises BackendError, FileError among them; so do the three below."""
    return _backend().list_files(workspace_id, root, path, depth)


def read_file(workspace_id: UUID, root: str, path: str, limit: int) -> bytes:
    return _backend().read_file(workspace_id, root, path, limit)


def write_files(workspace_id: UUID, root: str, files: Mapping[str, File]) -> None:
    _backend().write_files(workspace_id, root, files)


def delete_file(workspace_id: UUID, root: str, path: str, *, recursive: bool) -> None:
    _backend().delete_file(workspace_id, root, path, recursive=recursive)


def _backend() -> Backend:
    backend = _chosen()
    if backend is None:
        raise BackendError(ErrorClass.NO_BACKEND, NO_BACKEND)
    return backend


def _chosen() -> Backend | None:
    if not _is_chosen:
        wire(_by_settings())
    return _wired


def _by_settings() -> Backend | None:
    chosen = _for_this_machine() if settings.PROVISIONER == "auto" else settings.PROVISIONER
    backend = _made(chosen)
    if backend is None:
        log.info("provisioner.none", reason=f"PROVISIONER={chosen}: only external workspaces work")
    else:
        log.info("provisioner.chosen", label=backend.label)
    return backend


def _for_this_machine() -> str:
    """What `auto` means here: instances for a tenant, else containers where an engine answers."""
    if settings.MOLECULE_ORG_ID:
        if missing := missing_machine_settings():
            log.error("provisioner.none", reason=f"MOLECULE_ORG_ID is set, but not {', '.join(missing)}")
            return "none"
        return "ec2"
    from provisioning.backends import docker

    return "docker" if docker.answers() else "none"


def _made(chosen: str) -> Backend | None:
    """A provider's library is loaded where it is used: each costs a process 20 to 40 MB and half a second."""
    match chosen:
        case "ec2":
            from provisioning.backends.ec2 import Ec2Backend

            return Ec2Backend.from_settings(recorded=recorded_compute, check_image=check_image)
        case "docker":
            from provisioning.backends import docker

            return docker.from_settings()
        case "process":
            root = Path(settings.DATA_DIR) / "workspaces"
            return ProcessBackend(root=root, instance_id=settings.INSTANCE_ID, cwd=settings.BASE_DIR)
    return None
