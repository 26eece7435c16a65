"""How far a start has come: its steps, kept in its run and told to the canvases as they happen.

Source: docs/reference/provisioning.md, Progress.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone

from activity import events
from activity.events import EventType, Frame
from activity.tally import tally
from config.http import rfc3339
from provisioning.models import STOPS_FIRST, ProvisionRun, RunKind
from workspaces.models import Workspace

QUEUED, BOOT, REGISTER = "queued", "boot", "register"
STEPS = (QUEUED, "prepare", "image", "stop_old", "create", BOOT, REGISTER)
DURATIONS = "molecule_provision_duration_seconds"
BOUNDS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
RUNNING, OK, FAILED = "running", "ok", "failed"
# What a machine of its own tells while it boots; in the run's steps too, each of them over when it is told.
CRASHED = "crashed"
PHASES = ("cloud_init", "docker_ready", "config_fetched", "image_pulled", "container_started", CRASHED)


def planned(kind: str) -> list[str]:
    """The steps of a start of this kind, in order."""
    return [name for name in STEPS if name != "stop_old" or kind in STOPS_FIRST]


def begun(name: str) -> dict[str, Any]:
    """A step as it is stored while it runs."""
    now = rfc3339(timezone.now())
    return {"name": name, "status": RUNNING, "started_at": now, "duration_ms": 0, "message": ""}


def begin(run: ProvisionRun, name: str) -> None:
    """Add a step to `run`, which the caller stores, and tell of it."""
    run.steps = [*run.steps, begun(name)]
    _tell(run, run.steps[-1])


def end(run: ProvisionRun, status: str, message: str = "") -> None:
    """End the running step of `run`, which the caller stores, and tell of it; without one nothing happens."""
    step = _running(run)
    if step is not None:
        step.update(status=status, message=message, duration_ms=_elapsed_ms(step))
        _tell(run, step)
        if status == OK and run.kind != RunKind.TEARDOWN:
            _measure(run, step)


def claimed(run: ProvisionRun) -> None:
    """A worker has taken `run`: its wait is over, or what another worker began was lost with it."""
    step = _running(run)
    if step is not None and step["name"] != QUEUED:
        end(run, FAILED, "the worker was lost; another one goes on")
    else:
        end(run, OK)


def machine_told(run: ProvisionRun, phase: str, message: str) -> None:
    """Add a machine's phase to `run`, which the caller stores, and tell of it as the news of the boot."""
    step = {**begun(phase), "status": FAILED if phase == CRASHED else OK, "message": message}
    run.steps = joined(run.steps, [*run.steps, step])
    booting = _running(run)
    if booting is not None and booting["name"] == BOOT:
        booting["message"] = phase
        _tell(run, booting)


def joined(own: list[dict[str, Any]], stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The server's steps of `own` with the machine's of `stored`, which stand before the step under way."""
    told = [step for step in stored if step["name"] in PHASES]
    ours = [step for step in own if step["name"] not in PHASES]
    if ours and ours[-1]["status"] == RUNNING:
        return [*ours[:-1], *told, ours[-1]]
    return [*ours, *told]


def beat(run: ProvisionRun) -> None:
    """Tell that the running step still runs. For a side thread: it asks no database."""
    step = _running(run)
    if step is not None:
        events.publish(_frame(run, step))


def _measure(run: ProvisionRun, step: dict[str, Any]) -> None:
    runtime = Workspace.objects.values_list("runtime", flat=True).filter(pk=run.workspace_id).first()
    labels = {"backend": run.backend, "runtime": runtime or "", "step": step["name"]}
    tally.observe(DURATIONS, step["duration_ms"] / 1000, BOUNDS_S, **labels)


def _running(run: ProvisionRun) -> dict[str, Any] | None:
    """The step under way: the last one, or none."""
    last: dict[str, Any] | None = run.steps[-1] if run.steps else None
    return last if last and last["status"] == RUNNING else None


def _tell(run: ProvisionRun, step: dict[str, Any]) -> None:
    if run.kind != RunKind.TEARDOWN:
        events.publish_on_commit(_frame(run, step))


def _frame(run: ProvisionRun, step: dict[str, Any]) -> Frame:
    """`index` counts from 1; a canvas that shows a share of `total` shows what is done, never more."""
    names = planned(run.kind)
    payload = {
        "run_id": str(run.pk),
        "generation": run.generation,
        "step": step["name"],
        "index": names.index(step["name"]) + 1,
        "total": len(names),
        "status": step["status"],
        "message": step["message"],
        "elapsed_ms": _elapsed_ms(step) if step["status"] == RUNNING else step["duration_ms"],
    }
    return Frame(EventType.WORKSPACE_PROVISION_PROGRESS, run.workspace_id, timezone.now(), payload)


def _elapsed_ms(step: dict[str, Any]) -> int:
    began = datetime.fromisoformat(step["started_at"])
    return max(0, int((timezone.now() - began).total_seconds() * 1000))
