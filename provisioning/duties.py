"""Which sweeps have something to do here, told by what the wired backend offers.

Source: docs/reference/provisioning.md, Sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django.conf import settings

from config.jobs import Job
from provisioning import dispatch
from provisioning.dispatch import rents_machines


def keeps_containers() -> bool:
    """Compute on an engine that also keeps what workspaces store."""
    return dispatch.offers("volumes") and not rents_machines()


def watches_boots() -> bool:
    return rents_machines() and dispatch.offers("console")


def watches_images() -> bool:
    """Opted in, and there is a registry whose images this server is to fetch."""
    has_registry = bool(settings.MOLECULE_IMAGE_REGISTRY) and not settings.WORKSPACE_IMAGE_LOCAL_OVERRIDE
    return settings.IMAGE_AUTO_REFRESH and has_registry and dispatch.offers("image_cache")


CONDITIONS: Mapping[Job, Callable[[], bool]] = {
    Job.PARKED_COMPUTE: dispatch.has_provisioner,
    Job.HIBERNATION_MONITOR: dispatch.has_provisioner,
    Job.ORPHAN_SWEEPER: keeps_containers,
    Job.COMPUTE_RECONCILER: rents_machines,
    Job.EC2_ORPHAN_SWEEPER: rents_machines,
    Job.BOOTSTRAP_WATCHER: watches_boots,
    Job.IMAGE_AUTO_REFRESH: watches_images,
}
