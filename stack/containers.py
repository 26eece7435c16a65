"""The machine's container engine: whether there is one, and this stack's agents in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

PING_S = 2
CALL_S = 30
GRACE_S = 5  # for an agent to end by itself
INSTANCE = "molecule.platform.instance"  # the label of whatever the product starts
AT_ONCE = 8


def engine_answers() -> bool:
    try:
        return bool(docker.from_env(version="auto", timeout=PING_S).ping())
    except (DockerException, requests.RequestException, OSError):
        return False


def end_agents(instance_id: str) -> int:
    """Stop and remove a stack's containers; their volumes stay. Returns how many, 0 without an engine."""
    try:
        api = docker.from_env(version="auto", timeout=CALL_S).api
        found = api.containers(all=True, filters={"label": f"{INSTANCE}={instance_id}"})
    except (DockerException, requests.RequestException, OSError):
        return 0

    def end(container_id: str) -> bool:
        try:
            api.stop(container_id, timeout=GRACE_S)
            api.remove_container(container_id, force=True, v=True)
        except NotFound:
            pass  # gone already
        except (APIError, requests.RequestException):
            return False  # the next start, or the product's own sweeps, will see to it
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(end, [one["Id"] for one in found]))
