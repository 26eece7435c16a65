"""`up` and `down` as a person uses them, with a small product behind the real servers."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from stack import ports, processes
from stack.application import PROJECT
from stack.postgres import installations
from tests.stack.conftest import Start
from tests.stack.running import Running, ask, eventually, plain_environment


def down(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stack", "down", "--data-dir", str(folder)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)


def left_in(folder: Path) -> set[str]:
    """What only a running stack has in its folder."""
    return {"stack.lock", "url"} & {path.name for path in folder.iterdir()}


def test_up_says_where_to_go_and_what_to_type(shared: Running) -> None:
    eventually(lambda: "Try, in another terminal" in shared.output)
    output, folder = shared.output, shared.folder
    assert [int(number) for number in re.findall(r"^\[ ?(\d+)/8\]", output, re.MULTILINE)] == [*range(1, 9)]
    assert f"is running at {shared.url}\n" in output
    assert (folder / "url").read_text() == f"{shared.url}\n"
    password = (folder / "admin-password").read_text()
    assert f"{shared.url}/console/   login admin, password {password}" in output
    assert (folder / "admin-token").read_text() in output
    assert "(PROVISIONER=process)" in output
    assert output.count("  curl -s ") == 3
    log = (folder / "stack.log").read_text()
    assert "a step    | the step speaks" in log
    assert (folder / "admin-token").read_text() not in log
    assert password not in log


def test_only_we_may_read_what_it_keeps(shared: Running) -> None:
    kept = [path for path in shared.folder.iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert {stat.S_IMODE((shared.folder / name).stat().st_mode) for name in ("postgres", "valkey")} == {0o700}


def test_the_printed_commands_reach_the_product(shared: Running) -> None:
    eventually(lambda: "Try, in another terminal" in shared.output)
    first = next(line for line in shared.output.splitlines() if line.startswith("  curl"))
    answer = subprocess.check_output(first, shell=True, cwd=PROJECT, text=True, timeout=20)
    token = (shared.folder / "admin-token").read_text()
    assert f'"authorization": "Bearer {token}"' in answer


def test_a_second_up_says_where_the_first_one_runs(shared: Running) -> None:
    command = [sys.executable, "-m", "stack", "up", "--data-dir", str(shared.folder), "--port", "1"]
    second = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 0
    where = f"{shared.url}, pid {shared.process.pid}"
    assert second.stdout == f"Already running at {where}; `make down` stops it.\n"
    assert shared.is_healthy()


@pytest.mark.parametrize(
    "name", ["postgres", "valkey", "api", "files", "realtime", "worker", "nginx", "guard"]
)
def test_each_part_comes_back_after_a_kill(shared: Running, name: str) -> None:
    before = {other: shared.part(other).pid for other in ("postgres", "valkey", "api", "worker", "nginx")}
    shared.part(name).kill()
    eventually(lambda: f"{name} is ready again" in shared.output)
    assert f"stack     | {name} was ended by SIGKILL; it is started again in 1 s" in shared.output
    assert shared.is_healthy()
    others = {other: shared.part(other).pid for other in before if other != name}
    assert others == {other: pid for other, pid in before.items() if other != name}


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_leaves_nothing_behind(start_small: Start, folder: Path, what: signal.Signals) -> None:
    running = start_small().until_up()
    assert running.stop(what) == 0
    assert running.leftovers() == []
    assert left_in(folder) == set()
    assert ports.is_free(running.port, "0.0.0.0")
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".new"]


def test_a_stop_during_the_start_leaves_nothing_behind(start_small: Start, folder: Path) -> None:
    running = start_small()
    eventually(lambda: "[ 1/8]" in running.output)
    assert running.stop() == 0
    assert running.leftovers() == []
    assert left_in(folder) == set()


def test_data_and_secrets_survive_a_restart(start_small: Start, folder: Path) -> None:
    start_small().until_up().stop()
    before = {
        path.name: path.read_text()
        for path in folder.iterdir()
        if path.is_file() and path.name != "stack.log"
    }
    running = start_small().until_up()
    now = {name: (folder / name).read_text() for name in before}
    assert now == before
    assert running.is_healthy()


def test_a_taken_port_is_one_sentence_and_nothing_is_started(start_small: Start, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = start_small(port=port)
        assert running.process.wait(30) == 1
    assert re.fullmatch(
        rf"Port {port} is taken by \S+ \(pid {os.getpid()}\); "
        r"choose another one, such as `make up PORT=\d+`\.\n",
        running.output,
    )
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_sentence(start_small: Start, folder: Path) -> None:
    folder.touch()
    running = start_small()
    assert running.process.wait(30) == 1
    assert running.output == f"DATA_DIR={folder} is not a folder.\n"


def test_a_step_that_fails_ends_the_start_with_its_reason(start_small: Start, folder: Path) -> None:
    running = start_small(SMALL_STEP="print('no such table'); raise SystemExit(4)")
    assert running.process.wait(60) == 1
    assert "    no such table\n" in running.output
    assert running.output.splitlines()[-1] == "a step ended with status 4."
    assert running.leftovers() == []
    assert left_in(folder) == set()


def agent(folder: Path) -> subprocess.Popen[bytes]:
    """As the process backend starts them: a session of its own, no mark in its environment."""
    code = "import time; time.sleep(3600)"
    words = [sys.executable, "-c", code, "--config-dir", f"{folder}/workspaces/{'1' * 8}/configs"]
    return subprocess.Popen(words, start_new_session=True, env={}, stdin=subprocess.DEVNULL)


def test_agents_end_with_the_stack(start_small: Start, folder: Path) -> None:
    running = start_small().until_up()
    with agent(folder) as child, agent(folder.parent / "another") as foreign:
        running.stop()
        assert child.wait(10) == -signal.SIGTERM
        assert foreign.poll() is None
        foreign.kill()
    assert "stopped 1 agents" in running.output


def test_a_killed_supervisor_leaves_nothing_running(start_small: Start, folder: Path) -> None:
    running = start_small().until_up()
    parts = [running.part(name) for name in ("postgres", "valkey", "api", "nginx", "guard")]
    everything = [*parts, *running.leftovers()]
    with agent(folder) as child:
        running.process.kill()
        running.process.wait()
        _, alive = psutil.wait_procs(everything, timeout=30)
        assert alive == []
        child.wait(10)
    assert ports.is_free(running.port, "0.0.0.0")
    assert left_in(folder) == set()


def test_the_kernel_ends_the_children_of_a_killed_supervisor(start_small: Start, folder: Path) -> None:
    """Without the guard, which is stopped here; the database even shuts down in good order."""
    running = start_small().until_up()
    guard = running.part("guard")
    guard.suspend()
    parts = [running.part(name) for name in ("postgres", "valkey", "api", "files", "worker", "nginx")]
    running.process.kill()
    running.process.wait()
    eventually(lambda: not [part for part in parts if processes.runs(part)])
    guard.kill()
    newest = installations()[max(installations())]
    told = subprocess.check_output([newest / "pg_controldata", folder / "postgres"], text=True)
    assert re.search(r"Database cluster state: +shut down$", told, re.MULTILINE)
    assert down(folder).stdout.startswith("Not running")
    assert left_in(folder) == set()


def test_an_up_right_after_a_kill_waits_for_the_cleaning_and_starts(start_small: Start) -> None:
    first = start_small().until_up()
    first.process.kill()
    first.process.wait()
    (first.folder / "url").unlink()
    again = start_small().until_up()
    assert again.is_healthy()
    assert again.stop() == 0
    assert again.leftovers() == []


def test_leftovers_of_an_earlier_run_are_ended_at_the_start(start_small: Start, folder: Path) -> None:
    code = "import time; time.sleep(3600)"
    marked = plain_environment(**{processes.MARK: str(folder)})
    with subprocess.Popen([sys.executable, "-c", code], env=marked) as marked_child, agent(folder) as child:
        running = start_small().until_up()
        assert marked_child.wait(10) == -signal.SIGTERM
        assert child.wait(10) == -signal.SIGTERM
        assert running.is_healthy()


def test_down_stops_and_waits(start_small: Start, folder: Path) -> None:
    running = start_small().until_up()
    done = down(folder)
    assert done.returncode == 0
    assert re.search(r"Stopped in [\d.]+ s\.\n$", done.stdout)
    assert running.process.wait(5) == 0
    assert running.leftovers() == []


def test_down_without_a_stack_says_so(folder: Path) -> None:
    assert down(folder).stdout == f"Not running: there is no {folder}.\n"
    folder.mkdir()
    done = down(folder)
    assert (done.returncode, done.stdout) == (0, "Not running.\n")
    assert list(folder.iterdir()) == []


def test_down_ends_what_a_killed_stack_left(folder: Path) -> None:
    folder.mkdir()
    with agent(folder) as child:
        assert down(folder).stdout == "Not running; ended 1 processes left by an earlier run.\n"
        assert child.wait(5) == -signal.SIGTERM


def test_two_stacks_run_side_by_side(start_small: Start, folder: Path) -> None:
    first = start_small()
    second = start_small(folder=folder.with_name("other"), port=ports.choose(1)[0])
    first.until_up()
    second.until_up()
    assert first.is_healthy()
    first.stop()
    assert second.is_healthy()
    assert (first.folder / "instance-id").read_text() != (second.folder / "instance-id").read_text()


def test_the_product_is_told_what_it_needs(start_small: Start, folder: Path) -> None:
    running = start_small(PROVISIONER="none").until_up()
    told = running.part("api").environ()
    assert told["ADMIN_TOKEN"] == (folder / "admin-token").read_text()
    assert told["MOLECULE_INSTANCE_ID"] == (folder / "instance-id").read_text()
    assert told["PLATFORM_URL"] == f"http://127.0.0.1:{running.port}"
    assert told["TRUSTED_PROXIES"] == "127.0.0.0/8,::1/128"
    assert told["PROVISIONER"] == "none"
    assert told["DATA_DIR"] == str(folder)
    assert re.fullmatch(r"postgresql://workspace:[\w-]+@127\.0\.0\.1:\d+/workspace", told["DATABASE_URL"])
    assert re.fullmatch(r"redis://:[\w-]+@127\.0\.0\.1:\d+/0", told["REDIS_URL"])
    assert not {"MOLECULE_ENV", "MOLECULE_DEV_OPEN", "WS_ANONYMOUS_CANVAS"} & set(told)
    for server in ("postgres", "valkey", "nginx"):
        assert told["ADMIN_TOKEN"] not in " ".join(running.part(server).cmdline())


def test_an_open_stack_has_no_admin_token(start_small: Start) -> None:
    running = start_small("--open", ADMIN_TOKEN="theirs").until_up()
    told = running.part("api").environ()
    assert "ADMIN_TOKEN" not in told
    assert (told["MOLECULE_ENV"], told["MOLECULE_DEV_OPEN"], told["WS_ANONYMOUS_CANVAS"]) == (
        "development",
        "1",
        "1",
    )
    eventually(lambda: "Try, in another terminal" in running.output)
    assert "not needed: this stack is open" in running.output
    assert "Authorization" not in running.output


def test_given_servers_are_used_and_none_is_started(start_small: Start, folder: Path) -> None:
    given = {
        "DATABASE_URL": "postgresql://u:hidden@db.example:5433/w",
        "REDIS_URL": "redis://:hidden@cache.example/1",
    }
    running = start_small(**given).until_up()
    assert running.part("api").environ()["DATABASE_URL"] == given["DATABASE_URL"]
    assert not (folder / "postgres").exists()
    assert not (folder / "valkey").exists()
    assert "database: db.example:5433/w, from DATABASE_URL" in running.output
    assert "valkey: cache.example/1, from REDIS_URL" in running.output
    assert "hidden" not in running.output
    assert ask(f"{running.url}/anything").status == 200
