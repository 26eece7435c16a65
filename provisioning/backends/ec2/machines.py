"""Instances as this room sees them, read from DescribeInstances. Source: docs/reference/ec2.md, Instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from provisioning.backends.base import Compute, ComputeState
from provisioning.backends.ec2 import tags

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

log = structlog.get_logger(__name__)

PORT = 8000  # of the agent on its machine
LIVE = ("pending", "running", "stopping", "stopped")  # costs money, or may again
STATES: Mapping[str, ComputeState] = {
    "pending": ComputeState.STARTING,
    "running": ComputeState.RUNNING,
    "stopping": ComputeState.NOT_RUNNING,
    "stopped": ComputeState.NOT_RUNNING,
    "shutting-down": ComputeState.NOT_RUNNING,
    "terminated": ComputeState.NOT_RUNNING,
}


@dataclass(frozen=True)
class Machine:
    """One instance of this deployment."""

    instance_id: str
    workspace_id: UUID
    generation: int
    phase: str  # EC2's own word for its state
    launched_at: datetime | None
    address: str
    zone: str
    instance_type: str
    market: str
    runtime: str
    tier: int
    vcpus: float | None  # None where EC2 does not say
    has_metadata: bool  # the metadata service answers on it

    @property
    def state(self) -> ComputeState:
        return STATES.get(self.phase, ComputeState.UNKNOWN)

    @property
    def is_live(self) -> bool:
        return self.phase in LIVE

    @property
    def is_coming_up(self) -> bool:
        return self.phase in {"pending", "running"}

    @property
    def url(self) -> str:
        return f"http://{self.address}:{PORT}"

    def as_compute(self) -> Compute:
        return Compute(
            self.workspace_id,
            self.instance_id,
            self.generation,
            self.state,
            self.launched_at,
            self.runtime,
            vcpus=self.vcpus,
        )


def machines(instances: Iterable[InstanceTypeDef]) -> list[Machine]:
    """Those that carry readable tags, oldest first. Others are no machines of ours, and are logged."""
    found = []
    for one in instances:
        try:
            found.append(_machine(one))
        except (KeyError, ValueError) as error:
            log.warning("ec2.unreadable_tags", instance_id=one.get("InstanceId"), error=str(error))
    return sorted(found, key=lambda machine: (str(machine.launched_at), machine.instance_id))


def _machine(one: InstanceTypeDef) -> Machine:
    values = tags.values_of(one.get("Tags", []))
    tier = values.get(tags.TIER, "")
    return Machine(
        instance_id=one["InstanceId"],
        workspace_id=UUID(values[tags.WORKSPACE]),
        generation=int(values[tags.GENERATION]),
        phase=one["State"]["Name"],
        launched_at=one.get("LaunchTime"),
        address=one.get("PrivateIpAddress", ""),
        zone=one.get("Placement", {}).get("AvailabilityZone", ""),
        instance_type=one.get("InstanceType", ""),
        market=one.get("InstanceLifecycle", "on-demand"),
        runtime=values.get(tags.RUNTIME, ""),
        tier=int(tier) if tier.isdecimal() else 0,
        vcpus=_vcpus(one),
        has_metadata=one.get("MetadataOptions", {}).get("HttpEndpoint") != "disabled",
    )


def _vcpus(one: InstanceTypeDef) -> float | None:
    options = one.get("CpuOptions", {})
    cores = options.get("CoreCount")
    return cores * options.get("ThreadsPerCore", 1) if cores else None
