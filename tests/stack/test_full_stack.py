"""`python -m stack up` with the real product, from outside: what `make up` promises.

The tests share one stack with one workspace in it; each leaves them there, and the stack running."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from stack import ports, processes
from stack.application import PROCESSES, PROJECT
from tests.stack.conftest import reachable_folder
from tests.stack.running import Answer, Running, ask, eventually

pytestmark = pytest.mark.timeout(400)

UP_WITHIN_S = 180.0
BACK_WITHIN_S = 60.0
WORK_WITHIN_S = 100.0  # a sweep that runs every 60 s finds what no message told
KEPT = "kept whatever happens"  # name of a workspace
PARTS = ("postgres", "valkey", "nginx", *PROCESSES)


def call(running: Running, path: str, body: dict[str, Any] | None = None) -> Answer:
    """One request as the operator."""
    token = (running.folder / "admin-token").read_text()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return ask(running.url + path, body=None if body is None else json.dumps(body).encode(), headers=headers)


def names(running: Running) -> set[str]:
    """Of the workspaces; empty while the product does not answer."""
    answer = call(running, "/workspaces")
    return {workspace["name"] for workspace in answer.json()} if answer.status == 200 else set()


def accepted(running: Running, name: str) -> dict[str, Any] | None:
    """A new workspace; None while the product does not take one."""
    answer = call(running, "/workspaces", {"name": name})
    return answer.json() if answer.status == 201 else None


def is_ready(running: Running) -> bool:
    return running.is_healthy() and ask(f"{running.url}/health/ready").status == 200


class Full:
    """The stack under test, which some tests replace by its next run."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.running = self.start()

    def start(self) -> Running:
        self.running = Running("stack up", self.folder, self.port)
        return self.running.until_up(UP_WITHIN_S)


@pytest.fixture(scope="module")
def full() -> Iterator[Full]:
    with reachable_folder() as home:
        stack = Full(home / "data", ports.choose(1)[0])
        try:
            assert call(stack.running, "/workspaces", {"name": KEPT}).status == 201
            yield stack
        finally:
            stack.running.kill_whatever_is_left()


@pytest.fixture
def running(full: Full) -> Running:
    return full.running


def test_it_is_closed_and_the_token_opens_it(running: Running) -> None:
    assert ask(f"{running.url}/workspaces").status == 401
    assert KEPT in names(running)
    assert is_ready(running)


def test_the_three_commands_do_what_they_say(running: Running) -> None:
    eventually(lambda: "Try, in another terminal" in running.output)
    commands = [line for line in running.output.splitlines() if line.startswith("  curl")]

    def run(command: str) -> Any:
        return json.loads(subprocess.check_output(command, shell=True, cwd=PROJECT, text=True, timeout=30))

    assert KEPT in [workspace["name"] for workspace in run(commands[0])]
    created = run(commands[1])
    watch = commands[2].replace("<id>", created["id"])
    assert run(watch)["name"] == "hello"
    eventually(lambda: run(watch)["status"] == "online")


def test_the_printed_login_opens_the_console(running: Running) -> None:
    password = (running.folder / "admin-password").read_text()
    assert f"login admin, password {password}" in running.output
    with httpx.Client(base_url=running.url, follow_redirects=True, timeout=30) as browser:
        page = browser.get("/console/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert token is not None
        fields = {
            "username": "admin",
            "password": password,
            "csrfmiddlewaretoken": token[1],
            "next": "/console/",
        }
        inside = browser.post(page.url, data=fields)
        assert inside.status_code == 200
        assert inside.url.path == "/console/"
        assert 'name="password"' not in inside.text


@pytest.mark.parametrize("name", PARTS)
def test_it_is_healthy_again_after_a_kill(running: Running, name: str) -> None:
    said = running.output.count(f"{name} is ready again")
    running.part(name).kill()
    eventually(lambda: running.output.count(f"{name} is ready again") > said, BACK_WITHIN_S)
    eventually(partial(is_ready, running), BACK_WITHIN_S)
    assert KEPT in eventually(partial(names, running), BACK_WITHIN_S)


@pytest.mark.parametrize("name", ["valkey", "postgres", "worker"])
def test_work_goes_on_after_a_kill(running: Running, name: str) -> None:
    """The others are not restarted: they must find their way back by themselves."""
    running.part(name).kill()
    created = eventually(partial(accepted, running, f"after the kill of {name}"), BACK_WITHIN_S)
    assert created is not None
    path = f"/workspaces/{created['id']}"
    eventually(lambda: call(running, path).json().get("status") == "online", WORK_WITHIN_S)


def test_two_stacks_run_side_by_side_and_one_is_open(running: Running) -> None:
    with reachable_folder() as home:
        other = Running("stack up", home / "data", ports.choose(1)[0], "--open")
        try:
            other.until_up(UP_WITHIN_S)
            assert ask(f"{other.url}/workspaces").json() == []
            assert KEPT in names(running)
            assert other.stop() == 0
            assert other.leftovers() == []
        finally:
            other.kill_whatever_is_left()
    assert is_ready(running)


def test_a_stop_leaves_nothing_and_a_start_finds_everything(full: Full) -> None:
    token = (full.folder / "admin-token").read_text()
    assert full.running.stop() == 0
    assert full.running.leftovers() == []
    assert not (full.folder / "stack.lock").exists()
    assert not (full.folder / "url").exists()
    assert ports.is_free(full.port, "0.0.0.0")

    running = full.start()
    assert KEPT in names(running)
    assert (full.folder / "admin-token").read_text() == token


def test_a_killed_supervisor_leaves_nothing_and_a_start_finds_everything(full: Full) -> None:
    children = psutil.Process(full.running.process.pid).children(recursive=True)
    everything = {*children, *full.running.leftovers()}
    full.running.process.kill()
    full.running.process.wait()
    eventually(lambda: not [process for process in everything if processes.runs(process)], BACK_WITHIN_S)
    eventually(lambda: not full.running.leftovers(), BACK_WITHIN_S)
    eventually(lambda: not (full.folder / "stack.lock").exists(), BACK_WITHIN_S)

    running = full.start()
    assert KEPT in names(running)
