"""Real Celery workers, a real broker and real agents: what happens to a start when its worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psutil
import pytest
from celery import Celery
from django.conf import settings as django_settings
from django.db import connection

from activity.models import ActivityLog
from config import jobs
from provisioning import services
from provisioning.backends.base import Compute
from provisioning.backends.process import ProcessBackend
from provisioning.models import ProvisionRun, RunState
from tests.conftest import ADMIN_TOKEN
from tests.provisioning.harness import eventually
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

# Of Valkey: the workers answer to this test only, also where another process runs tests beside it.
BROKER_DATABASE = 7
A_MINUTE_S = 60


class Workers:
    """Worker processes of one deployment, whose agents live in `folder`."""

    def __init__(self, folder: Path, platform_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.instance_id = f"test-{uuid4().hex}"
        self.broker = urlsplit(django_settings.REDIS_URL)._replace(path=f"/{BROKER_DATABASE}").geturl()
        database = urlsplit(django_settings.DATABASE_URL)._replace(
            path=f"/{connection.settings_dict['NAME']}"
        )
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.provisioning.worker_settings",
            "DATABASE_URL": database.geturl(),
            "REDIS_URL": self.broker,
            "DATA_DIR": str(folder),
            "PROVISIONER": "process",
            "PLATFORM_URL": platform_url,
            "MOLECULE_INSTANCE_ID": self.instance_id,
        }
        self.running: list[subprocess.Popen[bytes]] = []
        app = Celery(broker=self.broker)
        app.control.purge()

        def send(job: jobs.Job, ids: dict[str, Any]) -> None:
            arguments = {key: str(value) for key, value in ids.items()}
            app.send_task(job.value, kwargs=arguments, queue=jobs.queue_of(job))

        monkeypatch.setattr(jobs, "_send", send)

    def start(self) -> subprocess.Popen[bytes]:
        """A worker with its own beat, as the stack runs them, in a process group of its own."""
        schedule = self.folder / f"beat-{len(self.running)}"
        command = f"celery -A config worker -B -s {schedule} -Q lifecycle,bulk,teardown,delegations,sweeps"
        habits = "-c 3 --prefetch-multiplier 1 -l info --without-gossip --without-mingle"
        with open(self.folder / f"worker-{len(self.running)}.log", "wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", *command.split(), *habits.split()],
                cwd=django_settings.BASE_DIR,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(worker)
        return worker

    def agents(self) -> list[Compute]:
        root = self.folder / "workspaces"
        return ProcessBackend(root=root, instance_id=self.instance_id, cwd=self.folder).list_managed()

    def agents_of(self, row: Workspace) -> list[Compute]:
        return [agent for agent in self.agents() if agent.workspace_id == row.pk]

    def hold(self, point: str, row: Workspace) -> None:
        (self.folder / f"hold-{point}-{row.pk}").touch()

    def held(self, row: Workspace) -> bool:
        return (self.folder / f"held-{row.pk}").exists()

    def let_go_of(self, point: str, row: Workspace) -> None:
        (self.folder / f"hold-{point}-{row.pk}").unlink()

    def let_go(self) -> None:
        for held in self.folder.glob("hold-*"):
            held.unlink()

    def logs(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in sorted(self.folder.glob("worker-*.log")))

    def end(self) -> None:
        for worker in self.running:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        for agent in self.agents():
            os.kill(int(agent.compute_id.split("-")[1]), signal.SIGKILL)


@pytest.fixture
def workers(
    tmp_path: Path, live_server: Any, valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workers]:
    from provisioning import dispatch

    made = Workers(tmp_path, live_server.url, monkeypatch)
    dispatch.wire(ProcessBackend(root=tmp_path / "workspaces", instance_id=made.instance_id, cwd=tmp_path))
    yield made
    made.end()
    dispatch.choose_again()
    sys.stdout.write(made.logs())


def accepted() -> Workspace:
    return WorkspaceFactory(status=Status.PROVISIONING)


def watched(workers: Workers, rows: list[Workspace], condition: Callable[[], bool], within_s: float) -> None:
    """Wait for `condition`, and see all the while that no workspace ever has a second agent."""
    deadline = time.monotonic() + within_s
    while not condition():
        for row in rows:
            assert len(workers.agents_of(row)) <= 1, "two agents for one workspace"
        assert time.monotonic() < deadline, workers.logs()
        time.sleep(0.1)


def is_online(row: Workspace) -> bool:
    return Workspace.objects.get(pk=row.pk).status == Status.ONLINE


def is_done(row: Workspace) -> bool:
    state = ProvisionRun.objects.values_list("state", flat=True).get(workspace_id=row.pk, generation=1)
    return state == RunState.SUCCEEDED and Workspace.objects.get(pk=row.pk).status == Status.ONLINE


def test_a_worker_killed_in_the_middle_is_made_up_for_within_a_minute(workers):
    """One start is held before its compute exists, one after, before anything is stored:
    the two ways to lose it.
    """
    early, late = accepted(), accepted()
    workers.hold("before-start", early)
    workers.hold("after-start", late)
    worker = workers.start()
    for row in (early, late):
        services.provision_async(row)
    eventually(lambda: workers.held(early) and workers.held(late), within_s=40)
    orphan = workers.agents()
    assert [agent.workspace_id for agent in orphan] == [late.pk]
    os.killpg(worker.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    worker.wait()
    assert set(ProvisionRun.objects.values_list("state", flat=True)) == {RunState.RUNNING}
    workers.let_go()
    workers.start()
    watched(workers, [early, late], lambda: is_done(early) and is_done(late), within_s=A_MINUTE_S)
    assert time.monotonic() - killed_at < A_MINUTE_S
    for row in (early, late):
        run = ProvisionRun.objects.get(workspace_id=row.pk)
        (agent,) = workers.agents_of(row)
        assert (run.attempts, run.compute_id, agent.generation) == (2, agent.compute_id, 1)
    assert workers.agents_of(late) == orphan  # adopted, not started again


def test_a_worker_child_told_to_stop_hands_its_start_to_another_at_once(workers):
    row = accepted()
    workers.hold("before-start", row)
    worker = workers.start()
    services.provision_async(row)
    eventually(lambda: workers.held(row), within_s=40)
    owner = ProvisionRun.objects.get(workspace_id=row.pk).lease_owner or ""
    child = psutil.Process(int(owner.split(":")[1]))
    assert child.ppid() == worker.pid
    workers.hold("after-start", row)  # so that the next one is seen at work
    child.terminate()
    child.wait(10)
    workers.let_go_of("before-start", row)
    eventually(
        lambda: ProvisionRun.objects.get(workspace_id=row.pk).lease_owner not in (None, owner), within_s=20
    )
    workers.let_go()
    watched(workers, [row], lambda: is_done(row), within_s=20)
    assert ProvisionRun.objects.get(workspace_id=row.pk).attempts == 1


def test_a_restart_and_a_delete_reach_the_real_agent(workers):
    workers.start()
    row = accepted()
    services.provision_async(row)
    watched(workers, [row], lambda: is_done(row), within_s=40)
    (first,) = workers.agents()
    services.accept_restart(row.pk, {})
    watched(workers, [row], lambda: is_online(row), within_s=30)
    (second,) = workers.agents()
    assert (first.generation, second.generation) == (1, 2)
    told = ActivityLog.objects.filter(workspace_id=row.pk, message_id=f"restart-context-{row.pk}-2")
    watched(workers, [row], lambda: told.exclude(response_body=None).exists(), within_s=60)
    assert told.get().status == "ok"
    services.pause(row.pk, cascade=True, dry_run=False)
    assert workers.agents() == []
    services.resume(row.pk, cascade=True, dry_run=False)
    watched(workers, [row], lambda: is_online(row), within_s=30)
    Workspace.objects.filter(pk=row.pk).update(status=Status.REMOVED, generation=9, cleanup_pending=True)
    assert services.teardown([row.pk]) == 0
    assert workers.agents() == []
    assert not (workers.folder / "workspaces" / str(row.pk)).exists()


def test_a_killed_agent_is_noticed_and_brought_back(workers):
    workers.start()
    row = accepted()
    services.provision_async(row)
    watched(workers, [row], lambda: is_done(row), within_s=40)
    (first,) = workers.agents()
    os.kill(int(first.compute_id.split("-")[1]), signal.SIGKILL)
    watched(workers, [row], lambda: not is_online(row), within_s=30)
    watched(workers, [row], lambda: is_online(row), within_s=30)
    assert [agent.generation for agent in workers.agents()] == [2]


FIFTY = 50


@pytest.mark.timeout(420)
def test_fifty_created_at_once_all_come_online_although_a_worker_is_killed(workers, live_server):
    """Over HTTP, eight clients at a time; one of two workers dies with its starts in its hands. None is lost,
    none has a second process.
    """
    (workers.folder / "light-agents").touch()
    doomed, _ = workers.start(), workers.start()

    def create(number: int) -> str:
        answer = httpx.post(
            f"{live_server.url}/workspaces",
            json={"name": f"agent {number}", "runtime": "langgraph"},
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
            timeout=60,
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as clients:
        ids = set(clients.map(create, range(FIFTY)))
    assert len(ids) == FIFTY
    online = Workspace.objects.filter(status=Status.ONLINE)
    eventually(lambda: online.count() >= 5, within_s=90)
    os.killpg(doomed.pid, signal.SIGKILL)
    doomed.wait()
    assert online.count() < FIFTY
    deadline = time.monotonic() + 240
    while online.count() < FIFTY or ProvisionRun.objects.exclude(state=RunState.SUCCEEDED).exists():
        each = Counter(agent.workspace_id for agent in workers.agents())
        assert max(each.values(), default=0) <= 1, "two agents for one workspace"
        assert time.monotonic() < deadline, workers.logs()
        time.sleep(0.5)
    agents = workers.agents()
    assert {str(agent.workspace_id) for agent in agents} == ids
    assert len(agents) == FIFTY
    runs = ProvisionRun.objects.all()
    assert (runs.count(), set(runs.values_list("state", "generation"))) == (
        FIFTY,
        {(RunState.SUCCEEDED, 1)},
    )
    assert {run.compute_id for run in runs} == {agent.compute_id for agent in agents}
