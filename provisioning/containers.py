"""What a container may do on a machine of its own, by tier. The machine is the boundary, so every tier means
what it says. Source: docs/reference/ec2.md, Containers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from provisioning.backends.tiers import (
    FULL,
    KEPT_CAPABILITIES,
    ONE_CPU_SHARES,
    PRIVILEGED,
    TierLimits,
    tier_limits,
)

SESSIONS = {"claude-code": "/root/.claude/sessions"}
ENGINE_SOCKET = "/var/run/docker.sock"


def container_settings(tier: int, runtime: str) -> Mapping[str, Any]:
    """Limits, rights and mounts as the boot script reads them; a mount's relative source is a folder of the
    machine's workspace folder.
    """
    limits = tier_limits(
        tier,
        memory_mb=settings.TIER_MEMORY_MB,
        cpu_shares=settings.TIER_CPU_SHARES,
        host_access={PRIVILEGED, FULL},
    )
    return {
        "network": "host" if limits.has_host_network else "bridge",
        "privileged": limits.is_privileged,
        "pid_host": limits.is_privileged,
        "read_only": limits.is_read_only,
        "tmpfs": dict(limits.scratch),
        "memory_mb": limits.memory_mb,
        "cpus": limits.cpu_shares / ONE_CPU_SHARES,
        "pids_limit": limits.pids,
        "no_new_privileges": limits.is_hardened,
        "cap_drop": ["ALL"] if limits.is_hardened else [],
        "cap_add": list(KEPT_CAPABILITIES) if limits.is_hardened else [],
        "mounts": _mounts(limits, runtime),
    }


def _mounts(limits: TierLimits, runtime: str) -> dict[str, str]:
    mounts = {"configs": "/configs"}
    if limits.has_workspace:
        mounts["workspace"] = "/workspace"
        if runtime in SESSIONS:
            mounts["sessions"] = SESSIONS[runtime]
    if limits.has_host_network:
        mounts[ENGINE_SOCKET] = ENGINE_SOCKET
    return mounts
