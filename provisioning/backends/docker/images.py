"""Which image a runtime starts from, and how it gets onto the engine's disk.

Source: docs/reference/docker.md, Images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog
from docker.errors import APIError, DockerException, ImageNotFound

from provisioning.backends.base import BackendError, ErrorClass, ImageInfo, StartSpec
from provisioning.backends.docker.agent_image import AgentImage
from provisioning.backends.docker.engine import NO_ANSWER, Engine, explained
from provisioning.backends.docker.progress import NOT_AVAILABLE, drain

log = structlog.get_logger(__name__)

PULL_S = 900.0
MOVING_TAGS = frozenset({"latest", "staging", "main", "dev", "edge", "nightly", "rolling"})


@dataclass(frozen=True)
class Source:
    """Where images come from; nothing is pulled without a registry. `platform` None: the engine's own."""

    registry: str = ""
    is_local_only: bool = False
    user: str = ""
    password: str = ""
    platform: str | None = None

    @property
    def may_pull(self) -> bool:
        return bool(self.registry) and not self.is_local_only

    @property
    def credentials(self) -> dict[str, str] | None:
        """Both or none."""
        if not (self.user and self.password):
            return None
        host = self.registry.partition("/")[0]
        return {"username": self.user, "password": self.password, "serveraddress": host}


class Images:
    def __init__(self, engine: Engine, source: Source, default: AgentImage) -> None:
        self._engine = engine
        self._source = source
        self._default = default

    def ensure(self, spec: StartSpec) -> ImageInfo:
        """The image of a start, pulled or built if need be. Raises BackendError(IMAGE_UNAVAILABLE)."""
        with explained(NOT_AVAILABLE, ErrorClass.IMAGE_UNAVAILABLE):
            wanted = spec.image or self._tag(spec.runtime)
            if self._source.may_pull:
                return self._pulled_if_needed(wanted)
            local = self._local(wanted) or self._local(f"workspace-template-{spec.runtime}:latest")
            return local or self._default_image()

    def refresh(self, runtime: str) -> ImageInfo:
        """Pull what the runtime's tag points at now. Raises BackendError."""
        if not self._source.may_pull:
            text = "images are local on this server; set MOLECULE_IMAGE_REGISTRY to pull newer ones"
            raise BackendError(ErrorClass.CONFIG, text)
        with explained(NOT_AVAILABLE, ErrorClass.IMAGE_UNAVAILABLE):
            reference = self._tag(runtime)
            self._pull(reference)
            return self._require(reference)

    def helper(self) -> str:
        """A small local image with a Python, for looking into volumes. Raises BackendError."""
        with explained(NOT_AVAILABLE, ErrorClass.IMAGE_UNAVAILABLE):
            return self._default.ensure()

    def plan(self, spec: StartSpec) -> tuple[str, bool]:
        """The reference a start would use, and whether it is here; pulls and builds nothing."""
        wanted = spec.image or self._tag(spec.runtime)
        if self._source.may_pull or self._local(wanted):
            return wanted, self._local(wanted) is not None
        template = f"workspace-template-{spec.runtime}:latest"
        if self._local(template):
            return template, True
        return self._default.tag, self._local(self._default.tag) is not None

    def platform(self) -> dict[str, Any]:
        """The argument of pull and create; what was built here is of the engine's own platform."""
        return {"platform": self._source.platform} if self._source.may_pull and self._source.platform else {}

    def _tag(self, runtime: str) -> str:
        prefix = f"{self._source.registry}/" if self._source.registry else ""
        return f"{prefix}workspace-template-{runtime}:latest"

    def _pulled_if_needed(self, reference: str) -> ImageInfo:
        local = self._local(reference)
        if local and not moves(reference):
            return local
        try:
            self._pull(reference)
        except BackendError as error:
            if local is None:
                raise
            log.warning("image.stale", image=reference, error=error.detail or error.safe_message)
            return ImageInfo(local.reference, local.digest, is_stale=True)
        return self._require(reference)

    def _require(self, reference: str) -> ImageInfo:
        found = self._local(reference)
        if found is None:
            raise BackendError(ErrorClass.IMAGE_UNAVAILABLE, NOT_AVAILABLE, detail=f"{reference} is not here")
        return found

    def _default_image(self) -> ImageInfo:
        return self._require(self._default.ensure())

    def _local(self, reference: str) -> ImageInfo | None:
        try:
            found = self._engine.api.inspect_image(reference)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            return None
        digests = [one.partition("@")[2] for one in found.get("RepoDigests") or []]
        return ImageInfo(reference, digests[0] if digests else found["Id"])

    def _pull(self, reference: str) -> None:
        """Raises BackendError; a pull that makes no progress, or takes too long, is given up."""
        log.info("image.pull", image=reference)
        try:
            lines = self._engine.streaming.pull(
                reference,
                stream=True,
                decode=True,
                auth_config=self._source.credentials,
                **self.platform(),
            )
            drain(lines, within_s=PULL_S, what=reference)
        except (APIError, DockerException, *NO_ANSWER) as error:
            raise BackendError(
                ErrorClass.IMAGE_UNAVAILABLE, NOT_AVAILABLE, detail=str(error), retryable=True
            ) from error


def moves(reference: str) -> bool:
    """Whether the same reference may name another image tomorrow. A registry's port is no tag."""
    if "@" in reference:
        return False
    _, colon, tag = reference.rpartition("/")[2].partition(":")
    return not colon or tag in MOVING_TAGS
