from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.fake_platform import TOKEN, FakePlatform
from tests.agent.processes import AgentProcess, connect_arguments, serve_arguments, write_config

StartAgent = Callable[..., AgentProcess]


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    fake = FakePlatform()
    yield fake
    fake.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartAgent]:
    """Start `python -m agent ARGUMENTS`; whatever still runs at the end is killed."""
    running: list[AgentProcess] = []

    def start_agent(
        *arguments: str, env: dict[str, str] | None = None, fd: int | None = None
    ) -> AgentProcess:
        running.append(AgentProcess(*arguments, directory=tmp_path, env=env, fd=fd))
        return running[-1]

    yield start_agent
    for agent in running:
        agent.kill()


@pytest.fixture
def serve(start: StartAgent, platform: FakePlatform, tmp_path: Path) -> StartAgent:
    """A managed agent with a stored token; the config directory is `tmp_path/configs`."""

    def start_agent(*more: str, secret: str = "", fd: int | None = None) -> AgentProcess:
        config_dir = write_config(tmp_path / "configs", secret=secret)
        return start(*serve_arguments(platform.url, config_dir, *more), fd=fd)

    return start_agent


@pytest.fixture
def connect(start: StartAgent, platform: FakePlatform, tmp_path: Path) -> StartAgent:
    """An external agent; its state directory is `tmp_path/state`."""

    def start_agent(*more: str) -> AgentProcess:
        arguments = connect_arguments(platform.url, tmp_path / "state", *more)
        return start(*arguments, env={"MOLECULE_WORKSPACE_TOKEN": TOKEN})

    return start_agent
