"""A container engine for the tests where none answers: installed as root on Debian, run until they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from stack import debian
from stack.containers import engine_answers
from stack.errors import StartFailed
from stack.supervisor import Service, Supervisor

OF_THE_PACKAGE_S = 10  # where a service manager runs, the package starts its engine by itself
NONE = "No container engine answers, and none can be started here; the tests marked `docker` will fail."


async def provide(
    supervisor: Supervisor, folder: Path, environment: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """See to it that an engine answers; say so where that fails: the tests that need one will fail."""
    if await asyncio.to_thread(engine_answers):
        return
    if not await asyncio.to_thread(debian.install, "docker.io", "dockerd", say):
        say(NONE)
        return
    if await _answers_within(OF_THE_PACKAGE_S):
        return
    try:
        seconds: list[float] = []
        await supervisor.start(
            [_service(folder, environment)], lambda name, elapsed_s: seconds.append(elapsed_s)
        )
        say(f"Started a container engine for the tests in {seconds[0]:.1f} s.")
    except StartFailed as failure:
        say("\n".join([NONE, str(failure), *failure.tail]))


async def _answers_within(seconds: float) -> bool:
    for _ in range(int(seconds)):
        if await asyncio.to_thread(engine_answers):
            return True
        if not Path("/run/systemd/system").exists():
            return False  # nobody but us would start it
        await asyncio.sleep(1)
    return False


def _service(folder: Path, environment: Mapping[str, str]) -> Service:
    async def probe() -> bool:
        return await asyncio.to_thread(engine_answers)

    return Service(
        name="dockerd",
        command=["dockerd", "--log-level", "warn"],
        environment=environment,
        cwd=folder,
        probe=probe,
        ready_timeout_s=90.0,
        stop_grace_s=20.0,
    )
