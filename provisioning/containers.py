"""What a container may do on a machine of its own, by tier. The machine is the boundary, so every tier means
what it says. Source: docs/reference/ec2.md, Containers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

STANDARD_TIER = 2  # also of a tier that is none
NEEDED_CAPABILITIES = ("CHOWN", "SETUID", "SETGID", "DAC_OVERRIDE", "FOWNER", "KILL")
SMALL_ROOMS = {"/tmp": "rw,noexec,nosuid,size=64m", "/home/agent": "rw", "/run": "rw"}  # noqa: S108
SESSIONS = {"claude-code": "/root/.claude/sessions"}


def container_settings(tier: int, runtime: str) -> Mapping[str, Any]:
    """Limits, rights and mounts as the boot script reads them; a mount's relative source is a folder of the
    machine's workspace folder.
    """
    known = tier if tier in settings.TIER_MEMORY_MB else STANDARD_TIER
    has_host, is_sandboxed = known >= 3, known == 1
    return {
        "network": "host" if known == 4 else "bridge",
        "privileged": has_host,
        "pid_host": has_host,
        "read_only": is_sandboxed,
        "tmpfs": SMALL_ROOMS if is_sandboxed else {},
        "memory_mb": settings.TIER_MEMORY_MB[known],
        "cpus": settings.TIER_CPU_SHARES[known] / 1024,
        "pids_limit": 2048 if has_host else 512,
        "no_new_privileges": not has_host,
        "cap_drop": [] if has_host else ["ALL"],
        "cap_add": [] if has_host else list(NEEDED_CAPABILITIES),
        "mounts": _mounts(known, runtime),
    }


def _mounts(tier: int, runtime: str) -> dict[str, str]:
    mounts = {"configs": "/configs"}
    if tier == 1:
        return mounts
    mounts["workspace"] = "/workspace"
    if runtime in SESSIONS:
        mounts["sessions"] = SESSIONS[runtime]
    if tier == 4:
        mounts["/var/run/docker.sock"] = "/var/run/docker.sock"
    return mounts
