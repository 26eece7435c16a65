"""The supervisor with real processes: starting, restarting, stopping."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from stack import supervisor
from stack.errors import StartFailed
from stack.log import Log
from stack.supervisor import Service, Supervisor
from tests.stack.running import eventually

LIVES = "import time; print('up', flush=True); time.sleep(3600)"
READY = "up"


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY_S", 0.05)


def service(name: str, code: str, folder: Path, **more: object) -> Service:
    settings: dict[str, object] = {"ready_line": READY, "ready_timeout_s": 20.0, "stop_grace_s": 5.0} | more
    return Service(name, [sys.executable, "-c", code], dict(os.environ), folder, **settings)  # type: ignore[arg-type]


async def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def supervised(folder: Path, work: Callable[[Supervisor], Awaitable[None]]) -> str:
    """Run `work` with a supervisor and stop it; return the log."""

    async def run() -> None:
        log = Log(folder / "log", stream=sys.stderr)
        boss = Supervisor(log)
        try:
            await work(boss)
        finally:
            await boss.stop()
            log.close()

    asyncio.run(run())
    return (folder / "log").read_text()


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


def ignore(name: str, seconds: float) -> None: ...


def test_a_service_that_dies_is_started_again_and_the_log_says_why(tmp_path: Path) -> None:
    async def work(boss: Supervisor) -> None:
        await boss.start([service("one", LIVES, tmp_path), service("two", LIVES, tmp_path)], ignore)
        before = boss.pids()
        os.kill(before["one"], signal.SIGKILL)
        await until(lambda: boss.pids().get("one") not in (None, before["one"]))
        await until(lambda: "one is ready again" in log_of(tmp_path))
        assert boss.pids()["two"] == before["two"]

    log = supervised(tmp_path, work)
    assert "one was ended by SIGKILL; it is started again in 0.05 s" in log


def test_the_delay_grows_while_a_service_keeps_dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_DELAY_S", 0.2)
    broken = tmp_path / "broken"
    code = f"import pathlib, sys; pathlib.Path({str(broken)!r}).exists() and sys.exit(7); {LIVES}"

    async def work(boss: Supervisor) -> None:
        await boss.start([service("poor", code, tmp_path)], ignore)
        broken.touch()
        os.kill(boss.pids()["poor"], signal.SIGTERM)
        await until(lambda: log_of(tmp_path).count("poor ended with status 7 before it was ready;") >= 3)
        broken.unlink()
        await until(lambda: "poor is ready again" in log_of(tmp_path))

    log = supervised(tmp_path, work)
    delays = [float(delay) for delay in re.findall(r"started again in ([\d.]+) s", log)]
    assert delays[:4] == [0.05, 0.1, 0.2, 0.2]


def test_a_service_that_dies_before_it_is_ready_fails_the_start_with_its_last_lines(tmp_path: Path) -> None:
    async def work(boss: Supervisor) -> None:
        with pytest.raises(StartFailed, match=r"bad ended with status 3 before it was ready\.") as failed:
            await boss.start([service("bad", "print('no database'); raise SystemExit(3)", tmp_path)], ignore)
        assert failed.value.tail == ["no database"]

    supervised(tmp_path, work)


def test_a_service_that_is_never_ready_fails_the_start_and_is_stopped(tmp_path: Path) -> None:
    pids: list[int] = []

    async def work(boss: Supervisor) -> None:
        with pytest.raises(StartFailed, match=r"slow was not ready within 0.3 s\."):
            slow = service("slow", LIVES, tmp_path, ready_line="never", ready_timeout_s=0.3)
            await boss.start([slow], ignore)
        pids.extend(boss.pids().values())

    supervised(tmp_path, work)
    assert len(pids) == 1
    assert not psutil.pid_exists(pids[0])


def test_a_command_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    async def work(boss: Supervisor) -> None:
        with pytest.raises(StartFailed, match=r"ghost cannot be started: .*No such file.*\."):
            await boss.start([Service("ghost", ["/no/such/binary"], {}, tmp_path)], ignore)

    supervised(tmp_path, work)


def test_what_ignores_the_signal_is_killed_together_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)'])\n"
        "print('child', child.pid, flush=True); print('up', flush=True); time.sleep(3600)"
    )

    async def work(boss: Supervisor) -> None:
        await boss.start([service("stubborn", code, tmp_path, stop_grace_s=0.3)], ignore)

    log = supervised(tmp_path, work)
    assert "stubborn did not stop within 0.3 s and is killed" in log
    matched = re.search(r"child (\d+)", log)
    assert matched is not None
    eventually(lambda: not _runs(int(matched[1])))


def test_children_of_a_killed_service_do_not_outlive_it(tmp_path: Path) -> None:
    """They would hold its port, and its output: neither may delay the restart."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "print('child', child.pid, flush=True); print('up', flush=True); time.sleep(3600)"
    )

    async def work(boss: Supervisor) -> None:
        await boss.start([service("parent", code, tmp_path)], ignore)
        first = re.search(r"child (\d+)", log_of(tmp_path))
        os.kill(boss.pids()["parent"], signal.SIGKILL)
        assert first is not None
        await until(lambda: "parent is ready again" in log_of(tmp_path))
        await until(lambda: not _runs(int(first[1])))

    supervised(tmp_path, work)


def test_stages_stop_in_reverse_order(tmp_path: Path) -> None:
    stopped: list[list[str]] = []

    async def note(names: list[str]) -> None:
        stopped.append(names)

    async def work(boss: Supervisor) -> None:
        await boss.start([service("database", LIVES, tmp_path)], ignore)
        await boss.start([service("api", LIVES, tmp_path), service("worker", LIVES, tmp_path)], ignore)
        await boss.stop(note)

    supervised(tmp_path, work)
    assert stopped == [["api", "worker"], ["database"]]


def test_any_output_is_shown_line_by_line(tmp_path: Path) -> None:
    code = (
        "import os, time; os.write(1, b'a\\xffb\\n' + b'x' * 200_000 + b'\\nno newline'); "
        "os.write(1, b'\\nup\\n'); time.sleep(3600)"
    )

    async def work(boss: Supervisor) -> None:
        await boss.start([service("noisy", code, tmp_path)], ignore)

    log = supervised(tmp_path, work)
    assert r"noisy     | a\xffb" in log
    assert log.count("x") >= 200_000
    assert "noisy     | no newline" in log


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
