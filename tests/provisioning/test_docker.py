"""What the Docker backend does in particular, on a real engine; the rest is in test_conformance.py."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from docker.errors import NotFound
from docker.types import Mount

from config.env import Environment
from provisioning.backends.base import (
    BackendError,
    ComputeState,
    ErrorClass,
    File,
    FileError,
    FileProblem,
)
from provisioning.backends.docker import agent_image
from provisioning.backends.docker import exec as inside_exec
from provisioning.backends.docker.agent_image import AgentImage
from provisioning.backends.docker.engine import Engine
from provisioning.backends.docker.files import Files
from provisioning.backends.docker.images import moves
from tests.conftest import at_once
from tests.provisioning.docker_engine import DockerHarness, base_image, engine, stand_in_image
from tests.provisioning.harness import eventually, spec

pytestmark = [pytest.mark.docker, pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

GIB = 1024**3


@pytest.fixture
def harness() -> Iterator[DockerHarness]:
    made = DockerHarness()
    yield made
    made.end()


@pytest.fixture
def trusting() -> Iterator[DockerHarness]:
    """A deployment whose operator gave tiers 3 and 4 the host."""
    made = DockerHarness(host_access={3, 4}, ports=range(28_400, 28_410))
    yield made
    made.end()


# --- Tiers


def test_the_processors_a_container_holds_are_told(harness):
    backend = harness.backend()
    backend.start(spec(tier=3))
    assert [one.vcpus for one in backend.list_managed()] == [harness.limits(3)["cpus"]]


@pytest.mark.parametrize(("tier", "words"), [(4, "DOCKER_HOST_ACCESS_TIERS=4"), (9, "MOLECULE_MAX_TIER=4")])
def test_a_tier_that_is_not_allowed_is_refused_with_advice(harness, tier, words):
    for refused in (harness.backend().start, harness.backend().dry_run):
        with pytest.raises(BackendError) as raised:
            refused(spec(tier=tier))
        assert raised.value.error_class == "invalid_spec"
        assert words in raised.value.safe_message
    assert harness.backend().list_storage() == []


def test_tier_3_with_host_access_is_privileged(trusting):
    wanted = spec(tier=3)
    trusting.backend().start(wanted)
    found = trusting.applied(wanted.workspace_id)
    assert (found["privileged"], found["host_pid"], found["pids"]) == (True, True, 2048)
    assert found["network"] == trusting.choices.network


def test_two_workspaces_of_tier_4_share_the_host_and_no_port(trusting):
    seed = {"config.yaml": File(b'name: "A"\na2a:\n  mode: push\n', seed=True)}
    one, other = spec(tier=4, files=seed), spec(tier=4, files=seed)
    started = at_once(lambda: trusting.backend().start(one), lambda: trusting.backend().start(other))
    assert len({outcome.url for outcome in started}) == 2
    for wanted, outcome in zip((one, other), started, strict=True):
        port = int(outcome.url.rpartition(":")[2])
        assert port in trusting.choices.ports
        assert outcome.internal_url == f"http://host.docker.internal:{port}"
        seen = trusting.seen(wanted.workspace_id)
        assert seen["environment"]["HOSTNAME"] == "127.0.0.1"
        assert seen["environment"]["A2A_PORT"] == str(port)
        assert seen["files"]["config.yaml"] == f'name: "A"\na2a:\n  mode: push\n  port: {port}\n'
        found = trusting.applied(wanted.workspace_id)
        assert (found["network"], found["published"]) == ("host", [])
        assert (found["privileged"], found["host_pid"]) == (True, True)
        cpus = min(4, engine().info()["NCPU"])
        assert (found["memory"], found["cpus"], found["pids"]) == (4 * GIB, cpus, 2048)
        assert found["mounts"] == ["/configs", "/var/run/docker.sock", "/workspace"]


def test_limits_come_from_the_environment_and_nonsense_does_not(monkeypatch):
    monkeypatch.setenv("TIER2_MEMORY_MB", "abc")
    monkeypatch.setenv("TIER3_MEMORY_MB", "1024")
    fresh = Environment()
    assert fresh.positive_int("TIER2_MEMORY_MB", default=512, help="") == 512
    assert fresh.positive_int("TIER3_MEMORY_MB", default=2048, help="") == 1024


# --- Containers


@pytest.mark.parametrize(
    ("tier", "access", "mount"),
    [(2, "none", "volume"), (2, "read_only", "ro"), (2, "read_write", "rw"), (1, "read_write", None)],
)
def test_a_shared_folder_is_mounted_as_far_as_it_may(harness, tmp_path, tier, access, mount):
    wanted = spec(tier=tier, workspace_dir=str(tmp_path), workspace_access=access)
    harness.backend().start(wanted)
    mounts = {one["Destination"]: one for one in harness.inspected(wanted.workspace_id)["Mounts"]}
    if mount is None:
        assert "/workspace" not in mounts
    elif mount == "volume":
        assert mounts["/workspace"]["Type"] == "volume"
    else:
        assert mounts["/workspace"]["Source"] == str(tmp_path)
        assert mounts["/workspace"]["RW"] is (mount == "rw")
    harness.backend().stop(wanted.workspace_id)
    harness.backend().remove_storage(wanted.workspace_id)
    assert tmp_path.exists()


def test_a_folder_that_the_host_does_not_have_is_named_as_the_cause(harness):
    wanted = spec(workspace_dir="/srv/not/there", workspace_access="read_write")
    with pytest.raises(BackendError) as raised:
        harness.backend().start(wanted)
    assert raised.value.error_class == "invalid_spec"
    assert "does not exist" in raised.value.safe_message


def test_habits_of_every_container(harness):
    wanted = spec()
    harness.backend().start(wanted)
    inspected = harness.inspected(wanted.workspace_id)
    config, name = inspected["HostConfig"], f"ws-{wanted.workspace_id}"
    assert config["RestartPolicy"]["Name"] == "unless-stopped"
    assert config["Init"] is True
    assert config["ExtraHosts"] == ["host.docker.internal:host-gateway"]
    assert config["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    assert inspected["Config"]["Hostname"] == name
    aliases = inspected["NetworkSettings"]["Networks"][harness.choices.network]["Aliases"]
    assert {name, name[: len("ws-") + 12]} <= set(aliases)
    labels = inspected["Config"]["Labels"]
    assert labels["molecule.operation.id"] == str(wanted.operation_id)
    assert labels["molecule.platform.instance"] == harness.choices.instance


def test_a_container_that_was_made_and_never_started_is_made_anew(harness):
    wanted = spec()
    left = _made_only(harness, wanted)
    started = harness.backend(bring_up_s=0).start(wanted)
    assert (started.adopted, started.compute_id == left) == (False, False)
    assert len(harness.backend().list_managed()) == 1


def test_a_container_that_another_worker_is_about_to_start_is_waited_for(harness):
    wanted = spec()
    made = _made_only(harness, wanted)
    other = threading.Timer(1, lambda: engine().start(made))
    other.start()
    found = harness.backend().start(wanted)
    other.join()
    assert (found.adopted, found.compute_id) == (True, made)


def _made_only(harness: DockerHarness, wanted: Any) -> str:
    """What a worker leaves that dies between create and start."""
    backend = harness.backend()
    backend.start(wanted)
    inspected = harness.inspected(wanted.workspace_id)
    backend.stop(wanted.workspace_id)
    made = engine().create_container(
        stand_in_image(),
        name=f"ws-{wanted.workspace_id}",
        labels=inspected["Config"]["Labels"],
        ports=[8000],
        host_config=engine().create_host_config(
            network_mode=harness.choices.network,
            port_bindings={8000: ("127.0.0.1", None)},
            mounts=[Mount("/configs", f"ws-{wanted.workspace_id}-configs")],
        ),
    )
    return str(made["Id"])


def test_a_foreign_container_of_the_same_name_is_left_alone(harness):
    wanted = spec()
    harness.backend("theirs").start(wanted)
    with pytest.raises(BackendError) as raised:
        harness.backend().start(wanted)
    assert raised.value.error_class == "conflict"
    harness.backend().remove_storage(wanted.workspace_id)
    assert len(harness.backend("theirs").list_storage()) == 2


def test_foreign_storage_of_the_same_name_is_never_mounted(harness):
    wanted = spec()
    harness.backend("theirs").start(wanted)
    harness.backend("theirs").stop(wanted.workspace_id)
    with pytest.raises(BackendError) as raised:
        harness.backend().start(wanted)
    assert raised.value.error_class == "conflict"
    assert harness.backend().list_managed() == []


def test_an_agent_that_keeps_ending_is_counted(harness):
    code = "import time; time.sleep(2); raise SystemExit(3)"  # long enough to be seen running once
    harness.backend().start(spec(image=stand_in_image("python3", "-c", code)))
    eventually(lambda: [one.restarts for one in harness.backend().list_managed() if one.restarts >= 3], 60)


def test_the_address_that_moved_is_told(harness):
    wanted = spec()
    backend = harness.backend()
    backend.start(wanted)
    engine().restart(f"ws-{wanted.workspace_id}", timeout=1)
    (listed,) = backend.list_managed()
    bound = harness.inspected(wanted.workspace_id)["NetworkSettings"]["Ports"]["8000/tcp"][0]
    assert listed.url == f"http://127.0.0.1:{bound['HostPort']}"
    assert listed.state == ComputeState.RUNNING


def test_racing_first_starts_make_one_network():
    harness = DockerHarness()
    name = f"workspace-test-{uuid4().hex[:8]}"
    try:
        harness.choices = type(harness.choices)(instance=harness.choices.instance, network=name)
        at_once(*[lambda: harness.backend().start(spec())] * 3)
        assert len(engine().networks(names=[name])) == 1
    finally:
        harness.end()
        engine().remove_network(name)


def test_logs_are_read_from_their_end(harness):
    wanted = spec()
    harness.backend().start(wanted)
    harness.seen(wanted.workspace_id)
    assert harness.backend().logs(wanted.workspace_id, 5).startswith("saw ")
    assert harness.backend().logs(uuid4(), 5) == ""


# --- Files


@pytest.mark.parametrize("runs", [True, False])
def test_a_container_that_goes_away_twice_is_storage_that_cannot_be_reached(harness, runs, monkeypatch):
    """What fails while it runs is an error of its own; a mistake about a path is told at once."""
    backend, wanted, tries = harness.backend(), spec(), []
    backend.start(wanted)
    if not runs:
        backend.stop(wanted.workspace_id)
    with pytest.raises(FileError):
        backend.read_file(wanted.workspace_id, "/configs", "nothing-here", 100)

    def cut(*args: object, **kwargs: object) -> bytes:
        tries.append(args)
        raise BackendError(ErrorClass.INTERNAL, "cut off", detail="exit 137")

    monkeypatch.setattr(Files, "_tried", cut)
    with pytest.raises(BackendError) as raised:
        backend.read_file(wanted.workspace_id, "/configs", "config.yaml", 100)
    assert len(tries) == 2
    assert getattr(raised.value, "problem", None) == (None if runs else FileProblem.UNAVAILABLE)


@pytest.mark.parametrize("runs", [True, False])
def test_files_are_reached_while_it_runs_and_while_it_does_not(harness, runs):
    backend, wanted = harness.backend(), spec()
    backend.start(wanted)
    if not runs:
        backend.stop(wanted.workspace_id)
    files = {"a/b/c.txt": File(b"\x00deep"), "empty": File(b""), "config.yaml": File(b"no", seed=True)}
    backend.write_files(wanted.workspace_id, "/configs", files)
    backend.write_files(wanted.workspace_id, "/plugins", {"p.py": File(b"pass")})
    read = lambda path: backend.read_file(wanted.workspace_id, "/configs", path, 100)  # noqa: E731
    assert (read("a/b/c.txt"), read("empty"), read("plugins/p.py")) == (b"\x00deep", b"", b"pass")
    assert read("config.yaml") == b"name: seed\n"
    listed = backend.list_files(wanted.workspace_id, "/configs", "a", 2)
    assert [(one.path, one.size, one.is_folder) for one in listed] == [("b", 0, True), ("b/c.txt", 5, False)]
    with pytest.raises(FileError) as folder:
        backend.delete_file(wanted.workspace_id, "/configs", "a", recursive=False)
    backend.delete_file(wanted.workspace_id, "/configs", "a", recursive=True)
    backend.delete_file(wanted.workspace_id, "/configs", "a", recursive=False)
    problems = [folder.value.problem]
    for path, limit in (("a/b/c.txt", 100), ("plugins", 100), ("config.yaml", 3), ("empty/x", 100)):
        with pytest.raises(FileError) as raised:
            backend.read_file(wanted.workspace_id, "/configs", path, limit)
        problems.append(raised.value.problem)
    kinds = FileProblem
    assert problems == [kinds.IS_FOLDER, kinds.MISSING, kinds.IS_FOLDER, kinds.TOO_LARGE, kinds.MISSING]
    assert engine().containers(all=True, filters={"label": ["molecule.platform.helper=true"]}) == []


def test_what_cannot_be_reached_is_never_empty(harness):
    backend, wanted = harness.backend(), spec()
    backend.start(wanted)
    backend.stop(wanted.workspace_id)
    for workspace_id, root in ((wanted.workspace_id, "/workspace"), (uuid4(), "/configs")):
        with pytest.raises(FileError) as raised:
            backend.list_files(workspace_id, root, "", 1)
        assert raised.value.problem == FileProblem.UNAVAILABLE


# --- Images


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("a/b", True),
        ("host:5000/a", True),
        ("host:5000/a:latest", True),
        ("a:nightly", True),
        ("a:1.2", False),
        (f"a@sha256:{'0' * 64}", False),
    ],
)
def test_only_moving_tags_are_pulled_again(reference, expected):
    assert moves(reference) is expected


def test_the_default_image_is_built_once_without_a_registry(tmp_path, monkeypatch):
    (tmp_path / "agent").mkdir()
    for path in (Path(django_settings.BASE_DIR) / "agent").iterdir():
        if path.is_file():
            (tmp_path / "agent" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "agent" / "mark.py").write_text(f"MARK = {uuid4().hex!r}\n")
    built: list[str] = []
    real = AgentImage._build
    monkeypatch.setattr(AgentImage, "_build", lambda self: (built.append(self.tag), real(self))[1])
    image = AgentImage(Engine(), project=tmp_path, base=base_image())
    try:
        assert at_once(image.ensure, image.ensure, image.ensure) == [image.tag] * 3
        assert built == [image.tag]
        newer = AgentImage(Engine(), project=Path(django_settings.BASE_DIR), base=base_image())
        assert newer.tag != image.tag
    finally:
        engine().remove_image(image.tag, force=True)
    assert agent_image.REPOSITORY in image.tag


def test_an_engine_that_cannot_be_reached_is_a_sentence_and_in_time(harness):
    began = time.monotonic()
    with harness.unreachable() as backend, pytest.raises(BackendError) as raised:
        backend.start(spec())
    assert time.monotonic() - began < 20
    assert (raised.value.error_class, raised.value.retryable) == ("transient", True)
    assert "container engine does not answer" in raised.value.safe_message
    with pytest.raises(NotFound):
        engine().inspect_container("ws-nothing")
    assert json.dumps(raised.value.safe_message)


def test_a_container_that_is_stopped_under_a_call_is_left_for_its_storage(harness, monkeypatch):
    backend, wanted = harness.backend(), spec()
    backend.start(wanted)
    backend.write_files(wanted.workspace_id, "/configs", {"a.txt": File(b"kept")})
    run, stopped = inside_exec.run, []

    def run_once_it_is_stopped(api, container_id, *rest):
        if not stopped:
            stopped.append(container_id)
            api.kill(container_id)
            eventually(lambda: not api.inspect_container(container_id)["State"]["Running"])
        return run(api, container_id, *rest)

    monkeypatch.setattr(inside_exec, "run", run_once_it_is_stopped)
    assert backend.read_file(wanted.workspace_id, "/configs", "a.txt", 100) == b"kept"
    assert len(stopped) == 1
