"""Celery shells: ids in, one verb each.

A message may come late, twice or never; the rows know what is to be done.
"""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from a2a.system_messages import tell
from activity.supervision import supervised
from config.jobs import Job
from provisioning import services
from provisioning.leases import ToldToStop
from provisioning.services import sweeps
from provisioning.services.restart_contexts import ring_for_contexts


@shared_task(name=Job.PROVISION)
def provision(run_id: str) -> None:
    try:
        services.provision(UUID(run_id))
    except ToldToStop:
        raise SystemExit from None


@shared_task(name=Job.PROVISION_IMPORTED)
def provision_imported(run_id: str) -> None:
    """The same, on the queue of imports."""
    provision(run_id)


@shared_task(name=Job.RESTART_CYCLE)
def restart_cycle(workspace_id: str) -> None:
    try:
        services.restart_cycle(UUID(workspace_id))
    except ToldToStop:
        raise SystemExit from None


@shared_task(name=Job.TEARDOWN)
def teardown(run_id: str) -> None:
    services.teardown_run(UUID(run_id))


@shared_task(name=Job.DELIVER_RESTART_CONTEXT)
def deliver_restart_context(workspace_id: str) -> None:
    services.deliver_context(UUID(workspace_id), tell)


@shared_task(name=Job.IMAGE_REFRESH)
def image_refresh(runtime: str, digest: str) -> None:
    sweeps.take_up_image(runtime, digest)


@shared_task(name=Job.HEALTH_SWEEP)
def health_sweep() -> None:
    supervised(Job.HEALTH_SWEEP, lambda: sweeps.check_health(timezone.now()))


@shared_task(name=Job.LIVENESS_BACKSTOP)
def liveness_backstop() -> None:
    supervised(Job.LIVENESS_BACKSTOP, lambda: sweeps.check_liveness(timezone.now()))


@shared_task(name=Job.PROVISION_TIMEOUT_SWEEP)
def provision_timeout_sweep() -> None:
    supervised(Job.PROVISION_TIMEOUT_SWEEP, lambda: sweeps.time_out_starts(timezone.now()))


@shared_task(name=Job.PARKED_COMPUTE)
def parked_compute() -> None:
    supervised(Job.PARKED_COMPUTE, lambda: sweeps.stop_parked(timezone.now()))


@shared_task(name=Job.WORKSPACE_CLEANUP)
def workspace_cleanup() -> None:
    supervised(Job.WORKSPACE_CLEANUP, lambda: sweeps.clean_up(timezone.now()))


@shared_task(name=Job.LIFECYCLE_REQUEUE)
def lifecycle_requeue() -> None:
    supervised(Job.LIFECYCLE_REQUEUE, lambda: sweeps.requeue(timezone.now()))


@shared_task(name=Job.RESTART_CONTEXTS)
def restart_contexts() -> None:
    supervised(Job.RESTART_CONTEXTS, lambda: ring_for_contexts(timezone.now()))


@shared_task(name=Job.ORPHAN_SWEEPER)
def orphan_sweeper() -> None:
    supervised(Job.ORPHAN_SWEEPER, lambda: sweeps.sweep_containers(timezone.now()))


@shared_task(name=Job.COMPUTE_RECONCILER)
def compute_reconciler() -> None:
    supervised(Job.COMPUTE_RECONCILER, lambda: sweeps.reconcile(timezone.now()))


@shared_task(name=Job.EC2_ORPHAN_SWEEPER)
def ec2_orphan_sweeper() -> None:
    supervised(Job.EC2_ORPHAN_SWEEPER, lambda: sweeps.sweep_machines(timezone.now()))


@shared_task(name=Job.BOOTSTRAP_WATCHER)
def bootstrap_watcher() -> None:
    supervised(Job.BOOTSTRAP_WATCHER, lambda: sweeps.watch_boots(timezone.now()))


@shared_task(name=Job.HIBERNATION_MONITOR)
def hibernation_monitor() -> None:
    supervised(Job.HIBERNATION_MONITOR, lambda: sweeps.tend_idle(timezone.now()))


@shared_task(name=Job.IMAGE_AUTO_REFRESH)
def image_auto_refresh() -> None:
    supervised(Job.IMAGE_AUTO_REFRESH, lambda: sweeps.watch_images(timezone.now()))
