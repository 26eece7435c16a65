"""What an inspected container means: whose it is, whether it runs, where it is reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from provisioning.backends.base import Compute, ComputeState
from provisioning.backends.docker.choices import Choices
from provisioning.backends.docker.labels import PORT, Marks
from provisioning.backends.docker.labels import read as read_labels
from provisioning.backends.docker.shape import AGENT_PORT, HOST_NAME

STATES = {
    "running": ComputeState.RUNNING,
    "paused": ComputeState.RUNNING,
    "created": ComputeState.STARTING,
    "restarting": ComputeState.STARTING,
    "exited": ComputeState.NOT_RUNNING,
    "dead": ComputeState.NOT_RUNNING,
    "removing": ComputeState.NOT_RUNNING,
}
LOOPBACK = "127.0.0.1"
FRACTION = re.compile(r"\.(\d{1,6})\d*")  # the engine tells nanoseconds, Python reads microseconds


@dataclass(frozen=True)
class Found:
    """`marks` None: another deployment's. `url` None: not reachable now."""

    container_id: str
    marks: Marks | None
    status: str
    state: ComputeState
    age_s: float
    url: str | None

    @property
    def is_new(self) -> bool:
        """Made, and not started yet."""
        return self.status == "created"

    @property
    def runs(self) -> bool:
        return self.status in {"running", "restarting", "paused"}


def read(inspected: Mapping[str, Any], choices: Choices) -> Found:
    status = str(inspected["State"]["Status"])
    created = moment(inspected["Created"]) or datetime.now(UTC)
    return Found(
        container_id=inspected["Id"],
        marks=read_labels(inspected["Config"]["Labels"], choices.instance),
        status=status,
        state=STATES.get(status, ComputeState.UNKNOWN),
        age_s=(datetime.now(UTC) - created).total_seconds(),
        url=_url(inspected, choices),
    )


def compute(inspected: Mapping[str, Any], choices: Choices) -> Compute | None:
    current = read(inspected, choices)
    if current.marks is None:
        return None
    return Compute(
        workspace_id=current.marks.workspace_id,
        compute_id=current.container_id,
        generation=current.marks.generation,
        state=current.state,
        started_at=moment(inspected["State"].get("StartedAt")) or moment(inspected["Created"]),
        runtime=current.marks.runtime,
        url=current.url,
        restarts=int(inspected.get("RestartCount") or 0),
        vcpus=inspected["HostConfig"].get("NanoCpus", 0) / 10**9 or None,
    )


def internal_url(inspected: Mapping[str, Any], choices: Choices) -> str:
    """How other agents reach it: by its name, or through the host."""
    port = inspected["Config"]["Labels"].get(PORT)
    if port is None:
        return f"http://{inspected['Name'].lstrip('/')}:{AGENT_PORT}"
    return f"http://{_host(choices, is_from_container=True)}:{port}"


def moment(text: str | None) -> datetime | None:
    """None for the engine's year 1, which says never."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(FRACTION.sub(r".\1", text))


def _url(inspected: Mapping[str, Any], choices: Choices) -> str | None:
    """How this server reaches it."""
    port = (inspected["Config"]["Labels"] or {}).get(PORT)
    if port is not None:
        return f"http://{_host(choices, is_from_container=choices.is_in_container())}:{port}"
    if choices.is_in_container():
        return internal_url(inspected, choices)
    published = (inspected["NetworkSettings"].get("Ports") or {}).get(f"{AGENT_PORT}/tcp")
    return f"http://{LOOPBACK}:{published[0]['HostPort']}" if published else None


def _host(choices: Choices, *, is_from_container: bool) -> str:
    is_loopback = choices.host_address in {LOOPBACK, "localhost"}
    return HOST_NAME if is_loopback and is_from_container else choices.host_address
