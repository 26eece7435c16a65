"""The same import from many sides at once, and after a process that died half way: one tree."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from access.models import WorkspaceAuthToken, WorkspaceSecret
from activity.models import StructureEvent
from orgimport.services import imports
from orgimport.services.endings import end_abandoned
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ProvisionRun
from provisioning.services import sweeps
from templates.models import WorkspaceFile
from tests.activity.processes import environment
from tests.conftest import at_once
from tests.orgimport.conftest import post
from tests.waiting import eventually
from workspaces.models import CanvasLayout, Workspace

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("catalogue", "keys"),
    pytest.mark.timeout(300),
]
NODES = 64


def test_five_imports_at_once_make_one_tree():
    dispatch.wire(InMemoryBackend())
    answers = at_once(*[lambda: post(dir="big")] * 5)
    assert [answer.status_code for answer in answers] == [201] * 5
    bodies = [answer.json() for answer in answers]
    assert [body["count"] for body in bodies] == [NODES] * 5
    assert sum(body["created"] for body in bodies) == NODES
    assert len({tuple(entry["id"] for entry in body["workspaces"]) for body in bodies}) == 1
    ids = set(Workspace.objects.live().values_list("pk", flat=True))
    assert len(ids) == NODES
    assert_one_of_everything()


def test_an_import_that_runs_is_not_taken_for_abandoned(monkeypatch: pytest.MonkeyPatch):
    """Nor one that has ended."""
    found = []
    real = imports._walked

    def asks(*args: Any) -> Any:
        found.append(end_abandoned(timezone.now()))
        return real(*args)

    monkeypatch.setattr(imports, "_walked", asks)
    assert post(dir="small").status_code == 201
    assert [*found, end_abandoned(timezone.now())] == [0, 0]
    assert StructureEvent.objects.filter(event_type__startswith="org.import.").count() == 2


def assert_one_of_everything() -> None:
    """One row, one layout and one start per node; nothing belongs to a row that is not there."""
    ids = set(Workspace.objects.live().values_list("pk", flat=True))
    assert len(ids) == Workspace.objects.count() == NODES
    assert set(CanvasLayout.objects.values_list("pk", flat=True)) == ids
    assert sorted(ProvisionRun.objects.values_list("workspace_id", flat=True)) == sorted(ids)
    owners = set(WorkspaceFile.objects.values_list("workspace_id", flat=True))
    owners |= set(WorkspaceSecret.objects.values_list("workspace_id", flat=True))
    assert owners <= ids
    assert not WorkspaceAuthToken.objects.exists()


@pytest.mark.parametrize("moment", ["writing", "committed"])
def test_an_import_that_was_killed_is_completed_by_the_next_one(moment: str, catalogue: Path) -> None:
    script = Path(__file__).with_name("dying_import.py")
    killed = subprocess.run(
        [sys.executable, str(script), str(catalogue / "big"), moment],
        cwd=django_settings.BASE_DIR,
        env={**environment(), "PYTHONPATH": str(django_settings.BASE_DIR), "PROVISIONER": "process",
             "CONFIGS_DIR": str(django_settings.CONFIGS_DIR)},
        capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    half = Workspace.objects.live().count()
    assert 0 < half < NODES
    events = StructureEvent.objects.filter(event_type__startswith="org.import.")
    told = events.values_list("event_type", flat=True)
    assert list(told) == ["org.import.started"]
    eventually(lambda: end_abandoned(timezone.now()) == 1)  # the server takes a moment to miss its client
    assert sorted(told.all()) == ["org.import.failed", "org.import.started"]
    assert end_abandoned(timezone.now()) == 0
    assert CanvasLayout.objects.count() == half
    dispatch.wire(InMemoryBackend())
    answers = at_once(*[lambda: post(dir="big")] * 3)
    assert [answer.status_code for answer in answers] == [201] * 3
    assert sum(answer.json()["created"] for answer in answers) == NODES - half
    while sweeps.requeue(timezone.now() + timedelta(minutes=1)):  # finds the starts that were never queued
        pass
    assert_one_of_everything()
    assert post(dir="big").json()["created"] == 0
