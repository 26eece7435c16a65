"""What the conformance suite must know of a backend beyond its protocol: one harness per backend."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
from django.conf import settings

from provisioning.backends.base import Backend, BackendError, ErrorClass, File, StartSpec
from provisioning.backends.memory import InMemoryBackend
from provisioning.backends.process import ProcessBackend

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_agent.py")))
FILES = {
    ".auth_token": File(b"token", mode=0o600),
    ".platform_inbound_secret": File(b"secret", mode=0o600),
    "config.yaml": File(b"name: seed\n", seed=True),
}


def spec(workspace_id: UUID | None = None, generation: int = 1, tier: int = 3, **changes: Any) -> StartSpec:
    environment = {"TIER": str(tier), "KEY": "value"}
    given = {"environment": environment, "files": FILES, "runtime": "langgraph", **changes}
    return StartSpec(
        workspace_id=workspace_id or uuid4(),
        generation=generation,
        operation_id=uuid4(),
        name="A",
        tier=tier,
        **given,
    )


def eventually(condition: Callable[[], Any], within_s: float = 10) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


class Harness(ABC):
    """One deployment on one platform; `end()` removes whatever it left there."""

    keeps_files = True  # what people edited outlives the compute
    tells_racers_apart = True  # of starts at the same moment each knows whether it made the compute

    @abstractmethod
    def backend(self, deployment: str = "mine") -> Backend:
        """A client of `deployment`; two of the same one are two workers."""

    @abstractmethod
    def broken(self) -> Backend:
        """A client of the same deployment whose starts begin and fail."""

    @abstractmethod
    def unreachable(self) -> AbstractContextManager[Backend]:
        """A client whose platform does not answer."""

    @abstractmethod
    def first_saw(self, workspace_id: UUID) -> Mapping[str, str]:
        """The config folder's files as the compute's first process found them."""

    @abstractmethod
    def stored(self, workspace_id: UUID) -> Mapping[str, tuple[int, int]]:
        """Owner and mode of each file in the config folder."""

    @abstractmethod
    def owner(self) -> int:
        """The account that agents run as."""

    @abstractmethod
    def applied(self, workspace_id: UUID) -> Mapping[str, Any]:
        """What the platform says of the compute's limits."""

    @abstractmethod
    def limits(self, tier: int) -> Mapping[str, Any]:
        """What it should say."""

    def mark(self, workspace_id: UUID) -> Set[str]:
        """Leave a mark in every place that outlives compute; returns the places."""
        return set()

    def marked(self, workspace_id: UUID) -> Set[str]:
        """The places where the mark still is."""
        return set()

    def as_agent(self, workspace_id: UUID, code: str) -> None:
        """Run Python code where and as the agent runs, in its config folder."""
        raise NotImplementedError

    @abstractmethod
    def end(self) -> None:
        """Remove what is left."""


class MemoryHarness(Harness):
    def __init__(self) -> None:
        self._deployments: dict[str, InMemoryBackend] = {}

    def backend(self, deployment: str = "mine") -> InMemoryBackend:
        return self._deployments.setdefault(deployment, InMemoryBackend())

    def broken(self) -> Backend:
        backend = self.backend()
        backend.failures["start"].append(BackendError(ErrorClass.BOOT_FAILED, "workspace start failed"))
        return backend

    @contextmanager
    def unreachable(self) -> Iterator[Backend]:
        backend = self.backend()
        backend.unreachable = True
        yield backend
        backend.unreachable = False

    def first_saw(self, workspace_id: UUID) -> Mapping[str, str]:
        return {name: file.content.decode() for name, file in self._configs(workspace_id).items()}

    def stored(self, workspace_id: UUID) -> Mapping[str, tuple[int, int]]:
        return {name: (self.owner(), file.mode) for name, file in self._configs(workspace_id).items()}

    def owner(self) -> int:
        return 1000

    def applied(self, workspace_id: UUID) -> Mapping[str, Any]:
        return {"tier": next(one.tier for one in self.backend().specs if one.workspace_id == workspace_id)}

    def limits(self, tier: int) -> Mapping[str, Any]:
        return {"tier": tier}

    def mark(self, workspace_id: UUID) -> Set[str]:
        for place in self.backend().stored[workspace_id].values():
            place["mark"] = File(b"")
        return self.marked(workspace_id)

    def marked(self, workspace_id: UUID) -> Set[str]:
        return {place for place, files in self.backend().stored[workspace_id].items() if "mark" in files}

    def end(self) -> None:
        self._deployments.clear()

    def _configs(self, workspace_id: UUID) -> Mapping[str, File]:
        return self.backend().stored[workspace_id]["/configs"]


class ProcessHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = f"test-{uuid4().hex}"

    def backend(self, deployment: str = "mine", command: tuple[str, ...] = STAND_IN) -> ProcessBackend:
        return ProcessBackend(
            root=self.folder,
            instance_id=f"{self._mark}-{deployment}",
            cwd=settings.BASE_DIR,
            command=command,
        )

    def broken(self) -> Backend:
        return self.backend(command=("/nonexistent/agent",))

    @contextmanager
    def unreachable(self) -> Iterator[Backend]:
        real, psutil.PROCFS_PATH = psutil.PROCFS_PATH, str(self.folder / "no-such-proc")
        try:
            yield self.backend()
        finally:
            psutil.PROCFS_PATH = real

    def first_saw(self, workspace_id: UUID) -> Mapping[str, str]:
        seen: dict[str, str] = self.seen(workspace_id)["files"]
        return seen

    def seen(self, workspace_id: UUID) -> dict[str, Any]:
        """What the stand-in that runs now wrote down when it began."""
        (agent,) = [one for one in self.backend().list_managed() if one.workspace_id == workspace_id]
        report = self.folder / str(workspace_id) / "seen.json"

        def of_this_generation() -> Any:
            seen = json.loads(report.read_text()) if report.exists() else {}
            return seen if seen.get("generation") == str(agent.generation) else None

        seen: dict[str, Any] = eventually(of_this_generation)
        return seen

    def stored(self, workspace_id: UUID) -> Mapping[str, tuple[int, int]]:
        found = {path.name: path.stat() for path in self.configs(workspace_id).iterdir()}
        return {name: (one.st_uid, stat.S_IMODE(one.st_mode)) for name, one in found.items()}

    def owner(self) -> int:
        return self.folder.stat().st_uid

    def applied(self, workspace_id: UUID) -> Mapping[str, Any]:
        return {"TIER": self.seen(workspace_id)["environment"]["TIER"]}

    def limits(self, tier: int) -> Mapping[str, Any]:
        return {"TIER": str(tier)}  # told, not enforced: these agents are for development

    def mark(self, workspace_id: UUID) -> Set[str]:
        (self.configs(workspace_id) / "mark").touch()
        return self.marked(workspace_id)

    def marked(self, workspace_id: UUID) -> Set[str]:
        return {"/configs"} if (self.configs(workspace_id) / "mark").exists() else set()

    def as_agent(self, workspace_id: UUID, code: str) -> None:
        subprocess.run([sys.executable, "-c", code], cwd=self.configs(workspace_id), check=True)

    def configs(self, workspace_id: UUID) -> Path:
        return self.folder / str(workspace_id) / "configs"

    def end(self) -> None:
        for one in psutil.process_iter(["cmdline"]):
            if str(self.folder) in " ".join(one.info["cmdline"] or []):
                one.kill()
