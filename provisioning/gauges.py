"""Figures of compute for `GET /metrics`. What a scan found is absent until there was one: a scan that fails
must not read as nothing found, and the time of the last good one says how old the figures are.

Source: docs/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from activity.counters import label_text
from activity.metrics import Family
from config.jobs import Job, is_enabled
from provisioning.models import ComputeScan, ProvisionRun, RunState
from workspaces.models import Workspace

SCANS = (Job.EC2_ORPHAN_SWEEPER, Job.ORPHAN_SWEEPER)
Samples = Iterator[tuple[str, float]]


def _scans(*jobs: Job) -> Iterator[ComputeScan]:
    """The last scans of the jobs that this deployment runs: those of another backend are history."""
    yield from ComputeScan.objects.filter(pk__in=[job for job in jobs if is_enabled(job)])


def duplicates_by_workspace() -> Samples:
    for scan in _scans(Job.EC2_ORPHAN_SWEEPER):
        for workspace_id, number in scan.findings["duplicates"].items():
            yield label_text({"workspace_id": workspace_id}), number


def duplicate_machines() -> Samples:
    for scan in _scans(Job.EC2_ORPHAN_SWEEPER):
        yield "", sum(scan.findings["duplicates"].values())


def orphans(job: Job) -> Callable[[], Samples]:
    def collect() -> Samples:
        for scan in _scans(job):
            yield "", scan.findings["orphans"]

    return collect


def refused() -> Samples:
    for scan in _scans(*SCANS):
        yield "", scan.findings["refused"]


def last_scan() -> Samples:
    for scan in _scans(*SCANS):
        yield "", scan.scanned_at.timestamp()


def queue_depth() -> Samples:
    yield "", ProvisionRun.objects.starts().filter(state=RunState.QUEUED).count()


def teardown_pending() -> Samples:
    yield "", Workspace.objects.filter(cleanup_pending=True).count()


GAUGES: list[tuple[Family, Callable[[], Samples]]] = [
    (
        Family(
            "molecule_ec2_instance_duplicates", "gauge", "Live instances of a workspace beyond the first."
        ),
        duplicates_by_workspace,
    ),
    (Family("molecule_ec2_duplicate_instances", "gauge", "The sum of these."), duplicate_machines),
    (
        Family("molecule_ec2_orphan_instances", "gauge", "Instances that no row wants, by the last scan."),
        orphans(Job.EC2_ORPHAN_SWEEPER),
    ),
    (
        Family("molecule_orphan_containers", "gauge", "Containers that no row wants, by the last scan."),
        orphans(Job.ORPHAN_SWEEPER),
    ),
    (
        Family(
            "molecule_compute_reap_refused",
            "gauge",
            "Compute that the last scan would have stopped, but for its number.",
        ),
        refused,
    ),
    (
        Family(
            "molecule_compute_scan_last_success_timestamp_seconds",
            "gauge",
            "When all compute was last compared with the rows.",
        ),
        last_scan,
    ),
    (Family("molecule_provision_queue_depth", "gauge", "Starts that no worker has taken."), queue_depth),
    (
        Family(
            "molecule_teardown_pending", "gauge", "Removed workspaces whose compute is not confirmed gone."
        ),
        teardown_pending,
    ),
]
