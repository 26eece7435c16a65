"""What the process backend does in particular; what every backend must do is in test_conformance.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from provisioning.backends import process
from provisioning.backends.base import BackendError, ComputeState
from provisioning.backends.process import ProcessBackend
from tests.provisioning.harness import STAND_IN, ProcessHarness, eventually, spec


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[ProcessHarness]:
    made = ProcessHarness(tmp_path)
    yield made
    made.end()


@pytest.fixture
def processes(harness: ProcessHarness) -> Callable[..., ProcessBackend]:
    """Makes process backends over one folder; whatever they started is gone afterwards."""
    return harness.backend


pytestmark = pytest.mark.django_db


def pids(backend: ProcessBackend) -> list[int]:
    return [int(one.compute_id.split("-")[1]) for one in backend.list_managed()]


def test_the_agent_gets_what_was_prepared_and_nothing_of_the_servers(harness, tmp_path, monkeypatch):
    monkeypatch.setenv("ADMIN_TOKEN", "the server's own")
    wanted = spec(environment={"KEY": "value", "PYTHONPATH": "/app", "WORKSPACE_CONFIG_PATH": "/configs"})
    harness.backend().start(wanted)
    environment = harness.seen(wanted.workspace_id)["environment"]
    environment.pop("LC_CTYPE", None)  # added by Python itself
    assert set(environment) == {
        "PATH",
        "LANG",
        "HOME",
        "KEY",
        "WORKSPACE_CONFIG_PATH",
        "MOLECULE_WORKSPACE_URL",
    }
    assert environment["WORKSPACE_CONFIG_PATH"] == str(tmp_path / str(wanted.workspace_id) / "configs")


def test_another_process_finds_the_agent_by_its_command_line(processes):
    wanted = spec()
    started = processes().start(wanted)
    other = processes()
    assert other.status(wanted.workspace_id) == ComputeState.RUNNING
    assert other.start(wanted).compute_id == started.compute_id
    other.stop(wanted.workspace_id)
    assert processes().list_managed() == []


def test_an_agent_that_ignores_sigterm_is_killed(processes, monkeypatch):
    monkeypatch.setattr(process, "STOP_GRACE_S", 0.3)
    backend, wanted = processes(command=(*STAND_IN, "--stubborn")), spec()
    backend.start(wanted)
    eventually(lambda: "ready" in backend.logs(wanted.workspace_id, 5))
    (pid,) = pids(backend)
    backend.stop(wanted.workspace_id)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_zombie_does_not_run(processes):
    backend, wanted = processes(), spec()
    backend.start(wanted)
    (pid,) = pids(backend)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert backend.status(wanted.workspace_id) == ComputeState.NOT_RUNNING
    assert not backend.start(wanted).adopted


def test_processes_that_come_and_go_do_not_disturb_the_scan(processes):
    backend, wanted = processes(), spec()
    backend.start(wanted)
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            subprocess.run(["true"], check=False)

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(backend.status(wanted.workspace_id) == ComputeState.RUNNING for _ in range(20))
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_command_that_cannot_be_run_leaves_nothing_behind(processes):
    backend, wanted = processes(command=("/nonexistent/agent",)), spec()
    with pytest.raises(BackendError) as raised:
        backend.start(wanted)
    assert (raised.value.error_class, raised.value.safe_message) == ("boot_failed", "workspace start failed")
    assert backend.list_managed() == []
    assert processes().start(wanted).adopted is False


def test_storage_of_a_running_workspace_is_not_removed(processes, tmp_path):
    backend, wanted = processes(), spec()
    backend.start(wanted)
    with pytest.raises(BackendError):
        backend.remove_storage(wanted.workspace_id)
    backend.stop(wanted.workspace_id)
    backend.remove_storage(wanted.workspace_id)
    assert list(tmp_path.iterdir()) == []


def test_the_address_answers_from_the_first_moment(processes):
    """The socket listens before the agent does, so an early call waits instead of failing."""
    started = processes().start(spec())
    host, port = started.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=2):
        pass


def test_the_log_is_read_from_its_end(processes, tmp_path):
    workspace_id = uuid4()
    backend = processes()
    assert backend.logs(workspace_id, 3) == ""
    (tmp_path / str(workspace_id)).mkdir()
    (tmp_path / str(workspace_id) / "agent.log").write_text("\n".join(f"line {n}" for n in range(100_000)))
    assert backend.logs(workspace_id, 2) == "line 99998\nline 99999"
