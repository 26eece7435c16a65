"""The default image: the reference agent, built from `agent/` on this engine when no runtime image is here.

One worker builds, the others wait for it. The tag carries a hash of the sources: a new release builds anew.
Source: docs/reference/docker.md, The default image.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from pathlib import Path

import structlog
from docker.errors import APIError, DockerException, ImageNotFound

from config.locks import try_lock
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.docker import own_python
from provisioning.backends.docker.engine import NO_ANSWER, Engine
from provisioning.backends.docker.progress import drain

log = structlog.get_logger(__name__)

REPOSITORY = "workspace-agent"
BUILD_S = 900.0
LOCK_POLL_S = 1.0
FAILED = "the default workspace image could not be built on this server; its log says why"


class AgentImage:
    """`project` holds `agent/`; `base` is the image that its Dockerfile starts from."""

    def __init__(self, engine: Engine, *, project: Path, base: str) -> None:
        self._engine = engine
        self._base = base
        self._context = _packed(project)
        digest = hashlib.sha256(self._context + base.encode()).hexdigest()
        self.tag = f"{REPOSITORY}:{digest[:12]}"

    def ensure(self) -> str:
        """The image's tag, once it is there. Raises BackendError(IMAGE_UNAVAILABLE)."""
        deadline = time.monotonic() + BUILD_S
        while not self._exists(self.tag):
            with try_lock(f"docker-build:{self.tag}") as mine:
                if mine and not self._exists(self.tag):
                    self._build()
            if time.monotonic() > deadline:
                raise BackendError(ErrorClass.IMAGE_UNAVAILABLE, FAILED, detail="too slow", retryable=True)
            if not mine:
                time.sleep(LOCK_POLL_S)
        return self.tag

    def _build(self) -> None:
        base = self._base_here()
        log.info("agent_image.build", image=self.tag, base=base)
        began = time.monotonic()
        try:
            lines = self._engine.streaming.build(
                fileobj=io.BytesIO(self._context),
                custom_context=True,
                dockerfile="agent/Dockerfile",
                tag=self.tag,
                buildargs={"BASE": base},
                rm=True,
                forcerm=True,
                decode=True,
            )
            drain(lines, within_s=BUILD_S, what=self.tag)
        except (APIError, DockerException, *NO_ANSWER) as error:
            raise BackendError(
                ErrorClass.IMAGE_UNAVAILABLE, FAILED, detail=str(error), retryable=True
            ) from error
        log.info("agent_image.built", image=self.tag, seconds=round(time.monotonic() - began, 1))

    def _base_here(self) -> str:
        """The base, pulled if need be; where no registry answers, one made of this server's own Python."""
        if self._exists(self._base):
            return self._base
        try:
            lines = self._engine.streaming.pull(self._base, stream=True, decode=True)
            drain(lines, within_s=BUILD_S, what=self._base)
        except (BackendError, APIError, DockerException, *NO_ANSWER) as error:
            log.warning("agent_image.own_base", wanted=self._base, reason=str(error))
        else:
            return self._base
        tag = own_python.tag()
        if not self._exists(tag):
            log.info("agent_image.base", image=tag)
            repository, _, name = tag.partition(":")
            self._engine.streaming.import_image_from_data(own_python.packed(), repository, name)
        return tag

    def _exists(self, reference: str) -> bool:
        try:
            self._engine.api.inspect_image(reference)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            return False
        return True


def _packed(project: Path) -> bytes:
    """The build's context as a tar that is the same for the same sources."""
    packet = io.BytesIO()
    with tarfile.open(fileobj=packet, mode="w") as archive:
        for path in sorted((project / "agent").rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                entry = tarfile.TarInfo(str(path.relative_to(project)))
                entry.size, entry.mode = path.stat().st_size, 0o644
                with open(path, "rb") as source:
                    archive.addfile(entry, source)
    return packet.getvalue()
