"""What every backend must do: the same scenarios on each platform, real where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.db import transaction

from provisioning.backends.base import Backend, BackendError, ComputeState, File, FileError, FileProblem
from tests.conftest import at_once
from tests.provisioning.docker_engine import DockerHarness
from tests.provisioning.ec2_harness import Ec2Harness
from tests.provisioning.harness import FILES, Harness, MemoryHarness, ProcessHarness, spec

pytestmark = pytest.mark.django_db

HARNESSES: dict[str, Callable[[pytest.FixtureRequest, Path], Harness]] = {
    "memory": lambda request, folder: MemoryHarness(),
    "process": lambda request, folder: ProcessHarness(folder),
    "docker": lambda request, folder: DockerHarness(),
    "ec2": lambda request, folder: Ec2Harness(request.getfixturevalue("cloud"), folder),
}
MARKS = {"docker": pytest.mark.docker}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in HARNESSES])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    made = HARNESSES[request.param](request, tmp_path)
    yield made
    made.end()


@pytest.fixture
def backend(harness: Harness) -> Backend:
    return harness.backend()


def test_what_was_started_runs(backend):
    wanted = spec()
    started = backend.start(wanted)
    assert started.adopted is False
    assert started.state in {ComputeState.RUNNING, ComputeState.STARTING}
    assert started.url.startswith("http://")
    assert backend.status(wanted.workspace_id) in {ComputeState.RUNNING, ComputeState.STARTING}
    (listed,) = backend.list_managed()
    assert (listed.workspace_id, listed.generation) == (wanted.workspace_id, 1)
    assert (listed.compute_id, listed.restarts) == (started.compute_id, 0)
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


def test_an_older_generation_never_replaces_a_newer(backend):
    wanted = spec(generation=2)
    backend.start(wanted)
    with pytest.raises(BackendError) as raised:
        backend.start(spec(wanted.workspace_id, 1))
    assert raised.value.error_class == "conflict"
    assert [one.generation for one in backend.list_managed()] == [2]


def test_stopping_twice_succeeds(backend):
    wanted = spec()
    backend.start(wanted)
    backend.stop(wanted.workspace_id)
    backend.stop(wanted.workspace_id)
    assert backend.status(wanted.workspace_id) == ComputeState.NOT_RUNNING
    assert backend.list_managed() == []


def test_stopping_the_unknown_succeeds(backend):
    backend.stop(uuid4())


def test_a_bounded_stop_spares_newer_generations(backend):
    wanted = spec(generation=2)
    backend.start(wanted)
    backend.stop(wanted.workspace_id, below_generation=2)
    assert backend.status(wanted.workspace_id) != ComputeState.NOT_RUNNING
    backend.stop(wanted.workspace_id, below_generation=3)
    assert backend.status(wanted.workspace_id) == ComputeState.NOT_RUNNING


def test_exactly_one_piece_of_compute_is_stopped_by_its_id(backend):
    one, other = spec(), spec()
    compute_id = backend.start(one).compute_id
    listed = backend.list_managed()[0].compute_id
    backend.start(other)
    backend.stop_compute(other.workspace_id, listed)  # another workspace's
    backend.stop_compute(one.workspace_id, "i-0123456789abcdef0")
    assert {listed.workspace_id for listed in backend.list_managed()} == {
        one.workspace_id,
        other.workspace_id,
    }
    backend.stop_compute(one.workspace_id, compute_id)
    backend.stop_compute(one.workspace_id, compute_id)
    assert [listed.workspace_id for listed in backend.list_managed()] == [other.workspace_id]


def test_the_unknown_does_not_run(backend):
    assert backend.status(uuid4()) == ComputeState.NOT_RUNNING


def test_without_an_answer_of_the_platform_nothing_is_known(harness):
    wanted = spec()
    harness.backend().start(wanted)
    with harness.unreachable() as backend:
        assert backend.status(wanted.workspace_id) == ComputeState.UNKNOWN
        with pytest.raises(Exception):  # noqa: B017  (whatever kept it from telling)
            backend.list_managed()
    assert harness.backend().status(wanted.workspace_id) != ComputeState.NOT_RUNNING


def test_two_deployments_on_one_platform_do_not_touch_each_other(harness):
    mine, theirs, wanted = harness.backend(), harness.backend("theirs"), spec()
    theirs.start(wanted)
    assert (mine.status(wanted.workspace_id), mine.list_managed()) == (ComputeState.NOT_RUNNING, [])
    mine.stop(wanted.workspace_id)
    assert theirs.status(wanted.workspace_id) != ComputeState.NOT_RUNNING


def test_ids_with_a_common_beginning_stay_apart(backend):
    one, other = UUID("12345678-1234-4abc-8000-000000000001"), UUID("12345678-1234-4abc-8000-000000000002")
    backend.start(spec(one))
    backend.start(spec(other))
    backend.stop(one)
    assert [listed.workspace_id for listed in backend.list_managed()] == [other]


def test_a_failed_start_leaves_no_compute_and_the_next_succeeds(harness):
    wanted = spec()
    with pytest.raises(BackendError) as raised:
        harness.broken().start(wanted)
    assert raised.value.safe_message in {"workspace start failed", "provisioning failed"}
    assert harness.backend().list_managed() == []
    assert harness.backend().start(wanted).adopted is False


def test_what_a_dead_worker_started_is_adopted_by_the_next(harness):
    wanted = spec()
    lost = harness.backend().start(wanted)  # and the worker dies before it stores the answer
    found = harness.backend().start(wanted)
    assert (found.adopted, found.compute_id) == (True, lost.compute_id)
    assert len(harness.backend().list_managed()) == 1


def test_of_racing_starts_one_creates_and_the_others_adopt(harness):
    wanted = spec()
    outcomes = at_once(*[lambda: harness.backend().start(wanted)] * 4)
    if harness.tells_racers_apart:
        assert sorted(outcome.adopted for outcome in outcomes) == [False] + [True] * 3
    assert len(harness.backend().list_managed()) == 1
    assert len({outcome.compute_id for outcome in outcomes}) == 1


def test_racing_starts_of_two_generations_leave_the_newer(harness):
    workspace_id = uuid4()
    at_once(*[lambda g=g: harness.backend().start(spec(workspace_id, g)) for g in (1, 2, 1, 2)])
    assert [one.generation for one in harness.backend().list_managed()] == [2]


def test_a_stop_during_a_start_leaves_one_of_the_two_outcomes(harness):
    wanted = spec()
    started, stopped = at_once(
        lambda: harness.backend().start(wanted), lambda: harness.backend().stop(wanted.workspace_id)
    )
    assert stopped is None
    assert isinstance(started, BackendError) or started.compute_id
    harness.backend().stop(wanted.workspace_id)
    assert harness.backend().list_managed() == []


def test_the_first_process_finds_its_files(harness, backend):
    wanted = spec()
    backend.start(wanted)
    seen = harness.first_saw(wanted.workspace_id)
    assert seen == {name: file.content.decode() for name, file in FILES.items()}


def test_secrets_belong_to_the_agent_alone(harness, backend):
    wanted = spec()
    backend.start(wanted)
    stored = harness.stored(wanted.workspace_id)
    for name, file in FILES.items():
        assert stored[name] == (harness.owner(), file.mode)


def test_a_new_start_keeps_what_people_edited_and_renews_the_secrets(harness, backend):
    wanted = spec()
    backend.start(wanted)
    assert harness.first_saw(wanted.workspace_id)["config.yaml"] == "name: seed\n"
    files = {**FILES, ".auth_token": File(b"new", mode=0o600), "config.yaml": File(b"other", seed=True)}
    backend.stop(wanted.workspace_id)
    backend.start(spec(wanted.workspace_id, 2, files=files))
    kept = "name: seed\n" if harness.keeps_files else "other"
    assert harness.first_saw(wanted.workspace_id)["config.yaml"] == kept
    assert harness.first_saw(wanted.workspace_id)[".auth_token"] == "new"


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/../../b", ""])
def test_files_stay_inside_the_workspace(backend, name):
    with pytest.raises(BackendError) as raised:
        backend.start(spec(files={name: File(b"x")}))
    assert raised.value.error_class == "invalid_spec"
    assert backend.list_managed() == []


def test_a_reset_empties_the_session_and_nothing_else(harness, backend):
    wanted = spec(runtime="claude-code")
    backend.start(wanted)
    places = harness.mark(wanted.workspace_id)
    assert "session" in places or "reset_session" not in backend.capabilities
    backend.start(spec(wanted.workspace_id, 2, runtime="claude-code"))
    assert harness.marked(wanted.workspace_id) == places
    backend.start(spec(wanted.workspace_id, 3, runtime="claude-code", reset_session=True))
    assert harness.marked(wanted.workspace_id) == places - {"session"}


def test_storage_goes_once_and_missing_storage_is_fine(harness, backend):
    wanted = spec()
    backend.start(wanted)
    harness.mark(wanted.workspace_id)
    backend.stop(wanted.workspace_id)
    backend.remove_storage(wanted.workspace_id)
    backend.remove_storage(wanted.workspace_id)
    assert backend.list_storage() == []
    backend.start(spec(wanted.workspace_id, 2))
    assert harness.marked(wanted.workspace_id) == set()


@pytest.mark.parametrize("tier", [1, 2, 3])
def test_the_tiers_limits_are_applied(harness, backend, tier):
    wanted = spec(tier=tier)
    backend.start(wanted)
    assert harness.applied(wanted.workspace_id) == harness.limits(tier)


def test_a_dry_run_names_keys_and_creates_nothing(backend):
    plan = backend.dry_run(spec())
    assert plan.backend == backend.label
    assert (plan.environment_keys, plan.files) == (["KEY", "TIER"], sorted(FILES))
    assert (backend.list_managed(), backend.list_storage()) == ([], [])


def test_closing_twice_is_fine(backend):
    backend.close()
    backend.close()


@pytest.mark.django_db(transaction=True)
def test_no_backend_is_called_inside_a_transaction(backend):
    with transaction.atomic(), pytest.raises(transaction.TransactionManagementError):
        backend.stop(uuid4())


# --- Files


@pytest.fixture(
    params=[pytest.param(name, marks=MARKS.get(name, ())) for name in ("memory", "process", "docker")]
)
def storing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """Backends whose files can be reached."""
    made = HARNESSES[request.param](request, tmp_path)
    yield made
    made.end()


def problem_of(call: Callable[[], object]) -> FileProblem:
    with pytest.raises(FileError) as raised:
        call()
    return raised.value.problem


@pytest.mark.parametrize("runs", [True, False])
def test_files_are_reached_while_it_runs_and_while_it_does_not(storing, runs):
    backend, wanted = storing.backend(), spec()
    pk = wanted.workspace_id
    backend.start(wanted)
    if not runs:
        backend.stop(pk)
    files = {"a/b/c.txt": File(b"\x00deep\n"), "empty": File(b""), "config.yaml": File(b"no", seed=True)}
    backend.write_files(pk, "/configs", files)
    backend.write_files(pk, "/plugins", {"p.py": File(b"pass")})
    read = [backend.read_file(pk, "/configs", one, 100) for one in ("a/b/c.txt", "empty", "plugins/p.py")]
    assert read == [b"\x00deep\n", b"", b"pass"]
    assert backend.read_file(pk, "/configs", "config.yaml", 100) == b"name: seed\n"
    listed = [(one.path, one.size, one.is_folder) for one in backend.list_files(pk, "/configs", "a", 2)]
    assert listed == [("b", 0, True), ("b/c.txt", 6, False)]
    assert [one.path for one in backend.list_files(pk, "/configs", "a", 1)] == ["b"]
    assert {"empty", "config.yaml", ".auth_token"} <= {
        one.path for one in backend.list_files(pk, "/configs", "", 1)
    }


def test_each_mistake_with_a_path_is_told_apart(storing):
    backend, wanted = storing.backend(), spec()
    pk = wanted.workspace_id
    backend.start(wanted)
    backend.write_files(pk, "/configs", {"a/b.txt": File(b"1234")})
    kinds = FileProblem
    assert problem_of(lambda: backend.read_file(pk, "/configs", "none", 9)) == kinds.MISSING
    assert problem_of(lambda: backend.read_file(pk, "/configs", "a", 9)) == kinds.IS_FOLDER
    assert problem_of(lambda: backend.read_file(pk, "/configs", "a/b.txt/c", 9)) == kinds.MISSING
    assert problem_of(lambda: backend.read_file(pk, "/configs", "a/b.txt", 3)) == kinds.TOO_LARGE
    assert problem_of(lambda: backend.list_files(pk, "/configs", "none", 1)) == kinds.MISSING
    assert problem_of(lambda: backend.list_files(pk, "/configs", "a/b.txt", 1)) == kinds.IS_FILE
    assert problem_of(lambda: backend.list_files(pk, "/configs", "a/b.txt/c", 1)) == kinds.MISSING
    assert problem_of(lambda: backend.write_files(pk, "/configs", {"a": File(b"")})) == kinds.IS_FOLDER
    assert problem_of(lambda: backend.write_files(pk, "/configs", {"a/b.txt/c": File(b"")})) == kinds.IS_FILE
    assert problem_of(lambda: backend.delete_file(pk, "/configs", "a", recursive=False)) == kinds.IS_FOLDER
    assert backend.read_file(pk, "/configs", "a/b.txt", 4) == b"1234"


def test_deleting_twice_succeeds(storing):
    backend, wanted = storing.backend(), spec()
    pk = wanted.workspace_id
    backend.start(wanted)
    backend.write_files(pk, "/configs", {"a/b.txt": File(b"x"), "c": File(b""), "d": File(b"whole")})
    for _ in range(2):
        backend.delete_file(pk, "/configs", "a", recursive=True)
        backend.delete_file(pk, "/configs", "c", recursive=False)
        backend.delete_file(pk, "/configs", "d/below/a/file", recursive=False)
    assert backend.read_file(pk, "/configs", "d", 9) == b"whole"
    assert problem_of(lambda: backend.list_files(pk, "/configs", "a", 1)) == FileProblem.MISSING


def test_storage_that_is_not_there_is_never_empty(storing):
    backend = storing.backend()
    for call in (
        lambda: backend.list_files(uuid4(), "/configs", "", 1),
        lambda: backend.read_file(uuid4(), "/configs", "a", 1),
        lambda: backend.write_files(uuid4(), "/configs", {"a": File(b"")}),
    ):
        assert problem_of(call) == FileProblem.UNAVAILABLE


def test_a_root_that_nobody_has_written_to_is_empty(storing):
    backend, wanted = storing.backend(), spec(tier=2)
    backend.start(wanted)
    for root in ("/workspace", "/home", "/plugins"):
        assert backend.list_files(wanted.workspace_id, root, "", 1) == []
    assert problem_of(lambda: backend.list_files(wanted.workspace_id, "/plugins", "p", 1)) == (
        FileProblem.MISSING
    )


@pytest.mark.parametrize("runs", [True, False])
def test_of_files_that_cannot_all_be_written_none_is(storing, runs):
    backend, wanted = storing.backend(), spec()
    pk, kinds = wanted.workspace_id, FileProblem
    backend.start(wanted)
    if not runs:
        backend.stop(pk)
    backend.write_files(pk, "/configs", {"folder/file": File(b"x")})
    before = backend.list_files(pk, "/configs", "", 3)
    for bad, problem in (("folder", kinds.IS_FOLDER), ("folder/file/x", kinds.IS_FILE)):
        files = {"aa/first": File(b"x"), bad: File(b"x")}
        assert problem_of(lambda files=files: backend.write_files(pk, "/configs", files)) == problem
    assert backend.list_files(pk, "/configs", "", 3) == before


def test_a_folder_goes_while_others_write_into_it(storing):
    backend, wanted = storing.backend(), spec()
    pk = wanted.workspace_id
    backend.start(wanted)
    rounds = 3 if isinstance(storing, DockerHarness) else 30

    def writes(name: str) -> None:
        for number in range(rounds):
            backend.write_files(pk, "/configs", {f"busy/{name}/{number}": File(b"x")})

    def deletes() -> None:
        for _ in range(rounds):
            backend.delete_file(pk, "/configs", "busy", recursive=True)

    calls = [*(lambda name=name: writes(name) for name in "abc"), deletes, deletes]
    assert at_once(*calls) == [None] * 5
    deletes()
    assert problem_of(lambda: backend.list_files(pk, "/configs", "busy", 1)) == FileProblem.MISSING


def test_home_is_written_like_the_other_roots(storing):
    backend, wanted = storing.backend(), spec(tier=2)
    pk = wanted.workspace_id
    backend.start(wanted)
    backend.write_files(pk, "/home", {"a/b.txt": File(b"x")})
    assert backend.read_file(pk, "/home", "a/b.txt", 9) == b"x"
    backend.delete_file(pk, "/home", "a", recursive=True)
    assert backend.list_files(pk, "/home", "", 2) == []


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in ("process", "docker")])
def lived_in(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """Backends whose agents can make links."""
    made = HARNESSES[request.param](request, tmp_path)
    yield made
    made.end()


LINKS = """
import os
os.symlink("../workspace", "way-out")
os.symlink("../workspace/keep", "link")
os.symlink(".auth_token", "token")
os.symlink("/proc/self/environ", "environ")
os.mkfifo("pipe")
os.mkdir("real")
os.symlink("../way-out", "real/way-out")
os.symlink("way-out", "plugins")
"""


@pytest.mark.parametrize("runs", [True, False])
def test_what_the_agent_links_to_is_out_of_reach(lived_in, runs):
    backend, wanted = lived_in.backend(), spec(tier=2)
    pk, kinds = wanted.workspace_id, FileProblem
    backend.start(wanted)
    backend.write_files(pk, "/workspace", {"keep": File(b"kept")})
    lived_in.as_agent(pk, LINKS)
    if not runs:
        backend.stop(pk)
    seen = {one.path for one in backend.list_files(pk, "/configs", "", 5)}
    assert seen.isdisjoint({"way-out", "link", "token", "environ", "pipe", "real/way-out", "plugins"})
    for path in ("link", "token", "environ", "pipe", "way-out", "way-out/keep", "real/way-out/keep"):
        assert problem_of(lambda path=path: backend.read_file(pk, "/configs", path, 99_999)) == kinds.MISSING
    for path in ("way-out", "real/way-out", "link", "pipe"):
        assert problem_of(lambda path=path: backend.list_files(pk, "/configs", path, 1)) == kinds.MISSING
    assert problem_of(lambda: backend.list_files(pk, "/plugins", "", 1)) == kinds.MISSING
    assert problem_of(lambda: backend.read_file(pk, "/plugins", "keep", 9)) == kinds.MISSING
    for root, path in (("/configs", "way-out/new"), ("/configs", "real/way-out/a/b"), ("/plugins", "new")):
        write = lambda root=root, path=path: backend.write_files(pk, root, {path: File(b"x")})  # noqa: E731
        assert problem_of(write) == kinds.IS_FILE
    for path in ("way-out/keep", "real/way-out/keep", "link/keep"):
        backend.delete_file(pk, "/configs", path, recursive=True)
    backend.delete_file(pk, "/plugins", "keep", recursive=False)
    backend.write_files(pk, "/configs", {"link": File(b"mine")})  # in place of the link
    assert backend.read_file(pk, "/configs", "link", 9) == b"mine"
    for path in ("token", "way-out", "real"):
        backend.delete_file(pk, "/configs", path, recursive=True)
    assert backend.read_file(pk, "/configs", ".auth_token", 9) == b"token"
    if not runs:
        backend.start(spec(pk, 2, tier=2))
    assert [one.path for one in backend.list_files(pk, "/workspace", "", 5)] == ["keep"]
    assert backend.read_file(pk, "/workspace", "keep", 9) == b"kept"
