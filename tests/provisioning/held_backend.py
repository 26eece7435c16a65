"""The process backend, held up where a file says so: the place in which a worker is then killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from django.conf import settings

from provisioning.backends.base import ImageInfo, Started, StartSpec
from provisioning.backends.process import REFERENCE_AGENT, ProcessBackend

LIGHT_AGENT = Path(__file__).with_name("light_agent.py")


class HeldBackend(ProcessBackend):
    def ensure_image(self, spec: StartSpec) -> ImageInfo:
        _hold("before-start", spec)
        return super().ensure_image(spec)

    def start(self, spec: StartSpec) -> Started:
        started = super().start(spec)
        _hold("after-start", spec)
        return started


def held_backend() -> HeldBackend:
    root = Path(settings.DATA_DIR) / "workspaces"
    light = Path(settings.DATA_DIR) / "light-agents"  # a test that starts many of them leaves this mark
    command = [sys.executable, "-S", str(LIGHT_AGENT)] if light.exists() else REFERENCE_AGENT
    return HeldBackend(root=root, instance_id=settings.INSTANCE_ID, cwd=settings.BASE_DIR, command=command)


def _hold(point: str, spec: StartSpec) -> None:
    held = Path(settings.DATA_DIR) / f"hold-{point}-{spec.workspace_id}"
    if held.exists():
        held.with_name(f"held-{spec.workspace_id}").touch()
    while held.exists():
        time.sleep(0.05)
