from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack import ports
from tests.stack.running import Running

Start = Callable[..., Running]


@pytest.fixture
def port() -> int:
    return ports.choose(1)[0]


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """An empty folder that the servers' accounts can reach; pytest closes its own to others."""
    with tempfile.TemporaryDirectory(prefix="workspace-stack-") as made:
        path = Path(made).resolve()
        path.chmod(0o755)
        yield path


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder, not there yet."""
    with reachable_folder() as home:
        yield home / "data"


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """One small stack for the tests of a module that leave it as they found it."""
    with reachable_folder() as home:
        running = Running("tests.stack.small", home / "data", ports.choose(1)[0])
        try:
            yield running.until_up()
        finally:
            running.kill_whatever_is_left()


@pytest.fixture
def start_small(folder: Path, port: int) -> Iterator[Start]:
    """Starts the stack of tests/stack/small.py; each is gone after the test."""
    started: list[Running] = []

    def start(*options: str, folder: Path = folder, port: int = port, **environment: str) -> Running:
        started.append(Running("tests.stack.small", folder, port, *options, **environment))
        return started[-1]

    yield start
    for one in started:
        one.kill_whatever_is_left()
