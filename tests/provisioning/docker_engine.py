"""The real container engine of the tests: images made without a registry, and nothing left behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tarfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import docker
from docker.errors import DockerException, ImageNotFound, NotFound

from provisioning.backends.base import Backend
from provisioning.backends.docker import own_python
from provisioning.backends.docker.backend import DockerBackend
from provisioning.backends.docker.choices import Choices
from provisioning.backends.docker.engine import Engine, answers
from provisioning.backends.docker.images import Images, Source
from provisioning.backends.docker.labels import container_name
from tests.provisioning.harness import Harness, eventually

NO_ENGINE = (
    "The Docker tests need a container engine, and none answers. `make test` installs and starts one on a "
    "Debian machine as root; elsewhere start Docker, or leave these tests out with `-m 'not docker'`."
)
NETWORK = "workspace-server-tests"
PLACES = {"/configs": "/configs", "/workspace": "/workspace", "session": "/root/.claude/sessions"}
STAND_IN = Path(__file__).with_name("container_agent.py")
GIB = 1024**3
KEPT = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]
HARDENED = {"cap_drop": ["ALL"], "cap_add": KEPT, "security": ["no-new-privileges"], "privileged": False}
SHARED = {"host_pid": False, "network": NETWORK, "published": ["127.0.0.1"], "read_only": False, "tmpfs": []}
ROOMY = {"mounts": ["/configs", "/workspace"]}
LIMITS: dict[int, dict[str, Any]] = {
    1: {
        "memory": GIB // 2,
        "cpus": 1.0,
        "pids": 512,
        **HARDENED,
        **SHARED,
        "read_only": True,
        "tmpfs": ["/home/agent", "/run", "/tmp"],
        "mounts": ["/configs"],
    },
    2: {"memory": GIB // 2, "cpus": 1.0, "pids": 512, **HARDENED, **SHARED, **ROOMY},
    3: {
        "memory": 2 * GIB,
        "cpus": min(2.0, os.cpu_count() or 1),
        "pids": 2048,
        **HARDENED,
        **SHARED,
        **ROOMY,
    },
}


@cache
def engine() -> docker.APIClient:
    assert answers(), NO_ENGINE
    return docker.from_env(version="auto", timeout=60).api


@cache
def base_image() -> str:
    """This machine's own Python as an image; made once per machine."""
    tag = own_python.tag()
    try:
        engine().inspect_image(tag)
    except ImageNotFound:
        engine().import_image_from_data(own_python.packed(), *tag.split(":"))
    return tag


@cache
def stand_in_image(*command: str, user: str = "1000:1000") -> str:
    """An image that runs `command`, by default the stand-in agent, as the agents' account."""
    words = json.dumps(command or ("python3", "/agent.py"))
    lines = [f"FROM {base_image()}", "COPY agent.py /agent.py", f"USER {user}", f"CMD {words}"]
    contents = {"Dockerfile": "\n".join(lines).encode(), "agent.py": STAND_IN.read_bytes()}
    tag = f"workspace-test:{hashlib.sha256(repr(contents).encode()).hexdigest()[:12]}"
    try:
        engine().inspect_image(tag)
    except ImageNotFound:
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            for name, content in contents.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        context.seek(0)
        built = list(engine().build(fileobj=context, custom_context=True, tag=tag, rm=True, decode=True))
        assert not [line for line in built if "error" in line], built
    return tag


class Ready:
    """In place of the agent's image: one that is built already."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def ensure(self) -> str:
        return self.tag


def forget(instance: str) -> None:
    """Remove every container and volume of a deployment."""
    mine = {"label": [f"molecule.platform.instance={instance}"]}
    for one in engine().containers(all=True, filters=mine):
        with _gone():
            engine().remove_container(one["Id"], force=True, v=True)
    for one in engine().volumes(filters=mine)["Volumes"] or []:
        with _gone():
            engine().remove_volume(one["Name"], force=True)


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except NotFound:
        pass
    except DockerException as error:
        if "already in progress" not in str(error):
            raise


def inspected_limits(inspected: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the engine says of a container, in the words of LIMITS."""
    config = inspected["HostConfig"]
    published = [one for bound in (config["PortBindings"] or {}).values() for one in bound]
    return {
        "memory": config["Memory"],
        "cpus": config["NanoCpus"] / 10**9,
        "pids": config["PidsLimit"],
        "read_only": config["ReadonlyRootfs"],
        "tmpfs": sorted(config.get("Tmpfs") or {}),
        "cap_drop": config["CapDrop"],
        "cap_add": sorted(name.removeprefix("CAP_") for name in config["CapAdd"] or []),
        "security": config["SecurityOpt"],
        "privileged": config["Privileged"],
        "host_pid": config["PidMode"] == "host",
        "network": config["NetworkMode"],
        "published": [one["HostIp"] for one in published],
        "mounts": sorted(one["Destination"] for one in inspected["Mounts"]),
    }


class DockerHarness(Harness):
    def __init__(self, **choices: Any) -> None:
        self.mark_of_test = f"test-{uuid4().hex[:12]}"
        self.choices = Choices(instance=self._instance("mine"), network=NETWORK, stop_grace_s=2, **choices)
        engine()

    def backend(self, deployment: str = "mine", **changes: Any) -> DockerBackend:
        return self._made(Engine(), stand_in_image(), deployment, **changes)

    def broken(self) -> Backend:
        return self._made(Engine(), stand_in_image(user="nobody-by-that-name"), "mine")

    @contextmanager
    def unreachable(self) -> Iterator[Backend]:
        """An engine that takes the call and never answers."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
            yield self._made(Engine(address, call_s=0.5), stand_in_image(), "mine")

    def inspected(self, workspace_id: UUID) -> dict[str, Any]:
        return dict(engine().inspect_container(container_name(workspace_id)))

    def seen(self, workspace_id: UUID) -> dict[str, Any]:
        """What the stand-in said when it began."""
        container_id = self.inspected(workspace_id)["Id"]

        def said() -> str | None:
            lines = engine().logs(container_id).decode().splitlines()
            return next((line for line in lines if line.startswith("saw ")), None)

        return dict(json.loads(eventually(said, within_s=30).removeprefix("saw ")))

    def first_saw(self, workspace_id: UUID) -> Mapping[str, str]:
        return dict(self.seen(workspace_id)["files"])

    def stored(self, workspace_id: UUID) -> Mapping[str, tuple[int, int]]:
        chunks, _ = engine().get_archive(container_name(workspace_id), "/configs")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            return {Path(one.name).name: (one.uid, one.mode & 0o777) for one in archive if one.isfile()}

    def owner(self) -> int:
        return 1000

    def applied(self, workspace_id: UUID) -> Mapping[str, Any]:
        return inspected_limits(self.inspected(workspace_id))

    def limits(self, tier: int) -> Mapping[str, Any]:
        return LIMITS[tier]

    def mark(self, workspace_id: UUID) -> Set[str]:
        packet = io.BytesIO()
        with tarfile.open(fileobj=packet, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("mark"))
        targets = {one["Destination"] for one in self.inspected(workspace_id)["Mounts"]}
        for place in set(PLACES.values()) & targets:
            engine().put_archive(container_name(workspace_id), place, packet.getvalue())
        return self.marked(workspace_id)

    def marked(self, workspace_id: UUID) -> Set[str]:
        return {name for name, place in PLACES.items() if self._has(workspace_id, f"{place}/mark")}

    def as_agent(self, workspace_id: UUID, code: str) -> None:
        command = ["python3", "-c", code]
        made = engine().exec_create(container_name(workspace_id), command, workdir="/configs")
        printed = engine().exec_start(made["Id"])
        assert engine().exec_inspect(made["Id"])["ExitCode"] == 0, printed

    def end(self) -> None:
        for deployment in ("mine", "theirs"):
            forget(self._instance(deployment))

    def _has(self, workspace_id: UUID, path: str) -> bool:
        try:
            engine().get_archive(container_name(workspace_id), path)[0].close()
        except NotFound:
            return False
        return True

    def _instance(self, deployment: str) -> str:
        return f"{self.mark_of_test}-{deployment}"

    def _made(self, to: Engine, image: str, deployment: str, **changes: Any) -> DockerBackend:
        choices = replace(self.choices, instance=self._instance(deployment))
        return DockerBackend(to, Images(to, Source(), Ready(image)), choices, **changes)  # type: ignore[arg-type]
