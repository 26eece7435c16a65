"""What an operator chose for containers, as one value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.tiers import FULL, TierLimits, tier_limits

DEFAULT_MEMORY_MB = {1: 512, 2: 512, 3: 2048, 4: 4096}
DEFAULT_CPU_SHARES = {1: 1024, 2: 1024, 3: 2048, 4: 4096}


@dataclass(frozen=True)
class Choices:
    """`instance` marks this deployment's containers and volumes."""

    instance: str
    network: str = "molecule-net"
    # Whether this server runs in a container of the same engine: then nothing is published.
    is_in_container: Callable[[], bool] = lambda: False
    stop_grace_s: int = 5
    max_tier: int = 4
    host_access: Collection[int] = frozenset()
    ports: range = range(18000, 19000)  # of tier 4
    host_address: str = "127.0.0.1"
    memory_mb: Mapping[int, int] = field(default_factory=lambda: DEFAULT_MEMORY_MB)
    cpu_shares: Mapping[int, int] = field(default_factory=lambda: DEFAULT_CPU_SHARES)

    def limits(self, tier: int) -> TierLimits:
        """Raises BackendError for a tier that this server does not start."""
        if tier > self.max_tier:
            text = f"tier {tier} is above the highest this server starts (MOLECULE_MAX_TIER={self.max_tier})"
            raise BackendError(ErrorClass.INVALID_SPEC, f"{text}; choose a lower tier")
        if tier == FULL and FULL not in self.host_access:
            text = "tier 4 would give the agent this host, which this server does not allow"
            hint = "choose tier 3 or lower, or let an operator set DOCKER_HOST_ACCESS_TIERS=4"
            raise BackendError(ErrorClass.INVALID_SPEC, f"{text}; {hint}")
        return tier_limits(
            tier, memory_mb=self.memory_mb, cpu_shares=self.cpu_shares, host_access=self.host_access
        )
