"""How a workspace's container is made: a start and its limits in the engine's words.

Source: docs/reference/docker.md, Containers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker.types import LogConfig, Mount

from provisioning.backends.base import StartSpec
from provisioning.backends.docker.choices import Choices
from provisioning.backends.docker.engine import Engine
from provisioning.backends.docker.labels import (
    PORT,
    SESSION_PATHS,
    aliases,
    configs_volume,
    container_name,
    labels,
    session_volume,
    workspace_volume,
)
from provisioning.backends.files import checked_name
from provisioning.backends.tiers import KEPT_CAPABILITIES, TierLimits

AGENT_PORT = 8000
ENGINE_SOCKET = "/var/run/docker.sock"
HOST_NAME = "host.docker.internal"
LOG_CONFIG = LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "3"})


def volumes_of(spec: StartSpec, limits: TierLimits) -> dict[str, str]:
    """The named volumes of a start, and where each is mounted."""
    found = {configs_volume(spec.workspace_id): "/configs"}
    if limits.has_workspace:
        if shared_folder(spec) is None:
            found[workspace_volume(spec.workspace_id)] = "/workspace"
        if spec.runtime in SESSION_PATHS:
            found[session_volume(spec.workspace_id)] = SESSION_PATHS[spec.runtime]
    return found


def shared_folder(spec: StartSpec) -> str | None:
    """The host's folder that stands for /workspace, if the workspace may have it."""
    return spec.workspace_dir if spec.workspace_dir and spec.workspace_access != "none" else None


def check_names(spec: StartSpec) -> None:
    """Before anything is made. Raises BackendError for a file name that would leave the config folder."""
    for name in spec.files:
        checked_name(name)


def mounted(spec: StartSpec, limits: TierLimits) -> list[str]:
    """The places of the container that outlive it."""
    return sorted(mount["Target"] for mount in _mounts(spec, limits))


def container(
    engine: Engine, spec: StartSpec, limits: TierLimits, choices: Choices, port: int | None
) -> dict[str, Any]:
    """The arguments of the engine's create call; `port` is the allotted one in the host's network."""
    api = engine.api
    marks = labels(spec, choices.instance)
    shape: dict[str, Any] = {
        "image": spec.image,
        "name": container_name(spec.workspace_id),
        "environment": environment(spec, choices, port),
        "labels": marks if port is None else {**marks, PORT: str(port)},
        "host_config": _host_config(engine, spec, limits, choices),
    }
    if port is None:  # the engine refuses all of these in the host's network
        endpoint = api.create_endpoint_config(aliases=aliases(spec.workspace_id))
        shape["networking_config"] = {"EndpointsConfig": {choices.network: endpoint}}
        shape["hostname"] = container_name(spec.workspace_id)
        shape["ports"] = [AGENT_PORT]
    return shape


def environment(spec: StartSpec, choices: Choices, port: int | None) -> Mapping[str, str]:
    """What preparation made, and the workspace's own address.

    The agent may register before the published port is known; `localhost` passes the URL policy until the
    address that the engine gave is stored, and that one is never overwritten.
    """
    if port is None:
        return {**spec.environment, "MOLECULE_WORKSPACE_URL": f"http://localhost:{AGENT_PORT}"}
    return {
        **spec.environment,
        "MOLECULE_WORKSPACE_URL": f"http://localhost:{port}",
        "HOSTNAME": choices.host_address,
        "A2A_PORT": str(port),
    }


def _host_config(engine: Engine, spec: StartSpec, limits: TierLimits, choices: Choices) -> dict[str, Any]:
    config: dict[str, Any] = {
        "mounts": _mounts(spec, limits),
        "mem_limit": limits.memory_bytes,
        "nano_cpus": min(limits.nano_cpus, engine.cpus() * 10**9),  # it refuses more than it has
        "pids_limit": limits.pids,
        "read_only": limits.is_read_only,
        "tmpfs": dict(limits.scratch),
        "privileged": limits.is_privileged,
        "restart_policy": {"Name": "unless-stopped"},
        "init": True,
        "log_config": LOG_CONFIG,
        "extra_hosts": {HOST_NAME: "host-gateway"},
        "network_mode": "host" if limits.has_host_network else choices.network,
    }
    if limits.is_hardened:
        config |= {
            "cap_drop": ["ALL"],
            "cap_add": list(KEPT_CAPABILITIES),
            "security_opt": ["no-new-privileges"],
        }
    if limits.is_privileged:
        config["pid_mode"] = "host"
    if not limits.has_host_network and not choices.is_in_container():
        config["port_bindings"] = {AGENT_PORT: ("127.0.0.1", None)}
    return engine.api.create_host_config(**config)


def _mounts(spec: StartSpec, limits: TierLimits) -> list[Mount]:
    found = [Mount(place, name, type="volume") for name, place in volumes_of(spec, limits).items()]
    if limits.has_workspace and (folder := shared_folder(spec)):
        is_read_only = spec.workspace_access == "read_only"
        found.append(Mount("/workspace", folder, type="bind", read_only=is_read_only))
    if limits.has_host_network:
        found.append(Mount(ENGINE_SOCKET, ENGINE_SOCKET, type="bind"))
    return found
