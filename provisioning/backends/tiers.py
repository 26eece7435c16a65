"""What a tier allows a workspace's container: one table for every backend that runs containers.

Source: docs/reference/docker.md, Tiers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

SANDBOXED, STANDARD, PRIVILEGED, FULL = 1, 2, 3, 4
FEW_PROCESSES, MANY_PROCESSES = 512, 2048
ONE_CPU_SHARES = 1024
KEPT_CAPABILITIES = ("CHOWN", "SETUID", "SETGID", "DAC_OVERRIDE", "FOWNER", "KILL")
SCRATCH = {
    "/tmp": "rw,noexec,nosuid,size=64m",  # noqa: S108  (inside the container)
    "/home/agent": "rw,nosuid,size=64m,mode=1777",
    "/run": "rw,nosuid,size=16m,mode=1777",
}


@dataclass(frozen=True)
class TierLimits:
    """What one container may use and do."""

    tier: int
    memory_mb: int
    cpu_shares: int  # 1024 is one CPU
    pids: int
    has_workspace: bool  # /workspace and the session besides /configs
    is_read_only: bool  # its root file system; scratch space stays writable
    is_hardened: bool  # few capabilities, no new privileges
    is_privileged: bool  # privileged, and the host's processes
    has_host_network: bool  # the host's network and its container engine

    @property
    def memory_bytes(self) -> int:
        return self.memory_mb * 1024 * 1024

    @property
    def nano_cpus(self) -> int:
        return self.cpu_shares * 10**9 // ONE_CPU_SHARES

    @property
    def scratch(self) -> Mapping[str, str]:
        """Where a read-only container may write: path -> options of the tmpfs."""
        return SCRATCH if self.is_read_only else {}


def tier_limits(
    tier: int, *, memory_mb: Mapping[int, int], cpu_shares: Mapping[int, int], host_access: Collection[int]
) -> TierLimits:
    """The limits of `tier`; an unknown one is standard.

    `host_access` are the tiers that get the host. A tier 3 without it is a standard one with its own limits;
    a tier 4 without it is the caller's to refuse.
    """
    known = tier if tier in (SANDBOXED, STANDARD, PRIVILEGED, FULL) else STANDARD
    has_host = known in (PRIVILEGED, FULL) and known in host_access
    return TierLimits(
        tier=known,
        memory_mb=memory_mb[known],
        cpu_shares=cpu_shares[known],
        pids=MANY_PROCESSES if known >= PRIVILEGED else FEW_PROCESSES,
        has_workspace=known != SANDBOXED,
        is_read_only=known == SANDBOXED,
        is_hardened=not has_host,
        is_privileged=has_host,
        has_host_network=has_host and known == FULL,
    )
