"""What every backend must do, and what the process backend does in particular."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from django.conf import settings as django_settings
from django.db import transaction

from provisioning.backends import process
from provisioning.backends.base import Backend, BackendError, ComputeState, File, StartSpec
from provisioning.backends.memory import InMemoryBackend
from provisioning.backends.process import ProcessBackend
from tests.conftest import at_once

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_agent.py")))
SECRETS = {
    ".auth_token": File(b"token", mode=0o600),
    ".platform_inbound_secret": File(b"secret", mode=0o600),
    "config.yaml": File(b"name: seed\n", seed=True),
}


def spec(workspace_id: UUID | None = None, generation: int = 1, **changes: Any) -> StartSpec:
    given = {"environment": {"TIER": "3", "KEY": "value"}, "files": SECRETS, **changes}
    return StartSpec(
        workspace_id=workspace_id or uuid4(),
        generation=generation,
        operation_id=uuid4(),
        name="A",
        runtime="langgraph",
        tier=3,
        **given,
    )


def eventually(condition: Callable[[], Any], within_s: float = 10) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., ProcessBackend]]:
    """Makes process backends over one folder; whatever they started is gone afterwards."""
    mark = f"test-{uuid4().hex}"

    def make(instance_id: str = mark, command: tuple[str, ...] = STAND_IN) -> ProcessBackend:
        return ProcessBackend(
            root=tmp_path, instance_id=instance_id, cwd=django_settings.BASE_DIR, command=command
        )

    yield make
    for one in psutil.process_iter(["cmdline"]):
        if str(tmp_path) in " ".join(one.info["cmdline"] or []):
            one.kill()


@pytest.fixture(params=["memory", "process"])
def backend(request: pytest.FixtureRequest, processes: Callable[..., ProcessBackend]) -> Backend:
    return InMemoryBackend() if request.param == "memory" else processes()


pytestmark = pytest.mark.django_db


# --- Conformance
# ----------------------------------------------------------------------------------------------------


def test_what_was_started_runs(backend):
    wanted = spec()
    started = backend.start(wanted)
    assert (started.state, started.adopted) == (ComputeState.RUNNING, False)
    assert started.url.startswith("http://127.0.0.1:")
    assert backend.status(wanted.workspace_id) == ComputeState.RUNNING
    (listed,) = backend.list_managed()
    assert (listed.workspace_id, listed.generation, listed.compute_id) == (
        wanted.workspace_id,
        1,
        started.compute_id,
    )
    assert listed.started_at is not None


def test_starting_a_generation_twice_adopts(backend):
    wanted = spec()
    first, second = backend.start(wanted), backend.start(wanted)
    assert second.adopted
    assert (second.compute_id, second.url) == (first.compute_id, first.url)
    assert len(backend.list_managed()) == 1


def test_a_new_generation_replaces_the_old(backend):
    wanted = spec()
    first = backend.start(wanted)
    second = backend.start(spec(wanted.workspace_id, 2))
    assert second.compute_id != first.compute_id
    assert [one.generation for one in backend.list_managed()] == [2]


def test_stopping_twice_and_stopping_the_unknown_succeed(backend):
    wanted = spec()
    backend.start(wanted)
    backend.stop(wanted.workspace_id)
    backend.stop(wanted.workspace_id)
    backend.stop(uuid4())
    assert backend.status(wanted.workspace_id) == ComputeState.NOT_RUNNING
    assert backend.list_managed() == []


def test_a_bounded_stop_spares_newer_generations(backend):
    wanted = spec(generation=2)
    backend.start(wanted)
    backend.stop(wanted.workspace_id, below_generation=2)
    assert backend.status(wanted.workspace_id) == ComputeState.RUNNING
    backend.stop(wanted.workspace_id, below_generation=3)
    assert backend.status(wanted.workspace_id) == ComputeState.NOT_RUNNING


def test_the_unknown_does_not_run(backend):
    assert backend.status(uuid4()) == ComputeState.NOT_RUNNING


def test_ids_with_a_common_beginning_stay_apart(backend):
    one, other = UUID("12345678-1234-4abc-8000-000000000001"), UUID("12345678-1234-4abc-8000-000000000002")
    backend.start(spec(one))
    backend.start(spec(other))
    backend.stop(one)
    assert [listed.workspace_id for listed in backend.list_managed()] == [other]


def test_storage_goes_once_and_missing_storage_is_fine(backend):
    wanted = spec()
    backend.start(wanted)
    backend.stop(wanted.workspace_id)
    backend.remove_storage(wanted.workspace_id)
    backend.remove_storage(wanted.workspace_id)


def test_a_dry_run_names_keys_and_creates_nothing(backend):
    plan = backend.dry_run(spec())
    assert (plan.environment_keys, plan.files) == (["KEY", "TIER"], sorted(SECRETS))
    assert backend.list_managed() == []


@pytest.mark.django_db(transaction=True)
def test_no_backend_is_called_inside_a_transaction(backend):
    with transaction.atomic(), pytest.raises(transaction.TransactionManagementError):
        backend.stop(uuid4())


# --- Processes
# ------------------------------------------------------------------------------------------------------


def pids(backend: ProcessBackend) -> list[int]:
    return [int(one.compute_id.split("-")[1]) for one in backend.list_managed()]


def test_files_are_there_before_the_agent_runs_and_secrets_are_private(processes, tmp_path):
    backend, wanted = processes(), spec()
    backend.start(wanted)
    folder = tmp_path / str(wanted.workspace_id)
    seen = json.loads(
        eventually(lambda: (folder / "seen.json").exists() and (folder / "seen.json").read_text())
    )
    assert seen["files"] == sorted(SECRETS)
    assert seen["token"] == "token"
    for name, mode in ((".auth_token", 0o600), (".platform_inbound_secret", 0o600), ("config.yaml", 0o644)):
        assert stat.S_IMODE((folder / "configs" / name).stat().st_mode) == mode
    assert "stand-in ready" in eventually(lambda: backend.logs(wanted.workspace_id, 5))


def test_the_agent_gets_what_was_prepared_and_nothing_of_the_servers(processes, tmp_path, monkeypatch):
    monkeypatch.setenv("ADMIN_TOKEN", "the server's own")
    wanted = spec(environment={"KEY": "value", "PYTHONPATH": "/app", "WORKSPACE_CONFIG_PATH": "/configs"})
    processes().start(wanted)
    stored = tmp_path / str(wanted.workspace_id) / "seen.json"
    environment = json.loads(eventually(lambda: stored.exists() and stored.read_text()))["environment"]
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


def test_a_restart_keeps_what_people_edited_and_renews_the_secrets(processes, tmp_path):
    backend, wanted = processes(), spec()
    backend.start(wanted)
    configs = tmp_path / str(wanted.workspace_id) / "configs"
    (configs / "config.yaml").write_text("name: edited\n")
    backend.start(spec(wanted.workspace_id, 2, files={**SECRETS, ".auth_token": File(b"new", mode=0o600)}))
    assert (configs / "config.yaml").read_text() == "name: edited\n"
    assert (configs / ".auth_token").read_text() == "new"


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/../../b", ""])
def test_files_stay_inside_the_workspace(processes, tmp_path, name):
    with pytest.raises(BackendError) as raised:
        processes().start(spec(files={name: File(b"x")}))
    assert raised.value.error_class == "invalid_spec"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".lock"]


def test_another_process_finds_the_agent_by_its_command_line(processes):
    wanted = spec()
    started = processes().start(wanted)
    other = processes()
    assert other.status(wanted.workspace_id) == ComputeState.RUNNING
    assert other.start(wanted).compute_id == started.compute_id
    other.stop(wanted.workspace_id)
    assert processes().list_managed() == []


def test_two_deployments_on_one_machine_do_not_touch_each_other(processes):
    mine, theirs, wanted = processes(), processes(f"other-{uuid4().hex}"), spec()
    theirs.start(wanted)
    assert (mine.status(wanted.workspace_id), mine.list_managed()) == (ComputeState.NOT_RUNNING, [])
    mine.stop(wanted.workspace_id)
    assert theirs.status(wanted.workspace_id) == ComputeState.RUNNING


def test_of_racing_starts_one_spawns_and_the_others_adopt(processes):
    wanted = spec()
    outcomes = at_once(*[lambda: processes().start(wanted)] * 6)
    assert sorted(outcome.adopted for outcome in outcomes) == [False] + [True] * 5
    assert len({outcome.compute_id for outcome in outcomes}) == 1


def test_racing_starts_of_two_generations_leave_the_newer(processes):
    workspace_id = uuid4()
    at_once(*[lambda g=g: processes().start(spec(workspace_id, g)) for g in (1, 2, 1, 2)])
    assert [one.generation for one in processes().list_managed()] == [2]


def test_an_older_generation_never_replaces_a_newer(processes):
    backend, wanted = processes(), spec(generation=2)
    backend.start(wanted)
    with pytest.raises(BackendError) as raised:
        backend.start(spec(wanted.workspace_id, 1))
    assert raised.value.error_class == "conflict"
    assert [one.generation for one in backend.list_managed()] == [2]


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
    import socket

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
