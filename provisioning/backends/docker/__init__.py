"""Workspaces as containers of a Docker engine: `from_settings()` is all that the dispatcher needs.

Source: docs/reference/docker.md.
"""

from __future__ import annotations

import platform
import sys

from django.conf import settings

from provisioning.backends.docker.agent_image import AgentImage
from provisioning.backends.docker.backend import DockerBackend
from provisioning.backends.docker.choices import Choices
from provisioning.backends.docker.engine import Engine, answers
from provisioning.backends.docker.images import Images, Source
from provisioning.backends.docker.whereabouts import Whereabouts

__all__ = ["DockerBackend", "answers", "from_settings"]


def from_settings() -> DockerBackend:
    """Never touches the engine: it may come later than this process."""
    engine = Engine()
    default = AgentImage(engine, project=settings.BASE_DIR, base=settings.WORKSPACE_AGENT_BASE_IMAGE)
    return DockerBackend(engine, Images(engine, _source(), default), _choices(engine))


def _choices(engine: Engine) -> Choices:
    first, _, last = settings.MOLECULE_T4_PORT_RANGE.partition("-")
    return Choices(
        instance=settings.INSTANCE_ID,
        network=settings.MOLECULE_DOCKER_NETWORK,
        is_in_container=Whereabouts(engine, settings.MOLECULE_IN_DOCKER),
        stop_grace_s=settings.DOCKER_STOP_GRACE_SECONDS,
        max_tier=settings.MOLECULE_MAX_TIER,
        host_access=frozenset(int(one) for one in settings.DOCKER_HOST_ACCESS_TIERS),
        ports=range(int(first), int(last or first) + 1),
        host_address=settings.MOLECULE_HOST_ADDRESS,
        memory_mb=settings.TIER_MEMORY_MB,
        cpu_shares=settings.TIER_CPU_SHARES,
    )


def _source() -> Source:
    return Source(
        registry=settings.MOLECULE_IMAGE_REGISTRY,
        is_local_only=bool(settings.WORKSPACE_IMAGE_LOCAL_OVERRIDE),
        user=settings.GHCR_USER,
        password=settings.GHCR_TOKEN,
        platform=_platform(),
    )


def _platform() -> str | None:
    """As told, even if that is nothing; our images run emulated on the Macs whose engines are arm64."""
    if settings.MOLECULE_IMAGE_PLATFORM is not None:
        return settings.MOLECULE_IMAGE_PLATFORM or None
    return "linux/amd64" if sys.platform == "darwin" and platform.machine() == "arm64" else None
