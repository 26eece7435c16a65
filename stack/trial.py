"""Throw-away services around one command: `make test` and whatever else needs a database for a minute."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stack import accounts, debian, own_engine, ports, processes
from stack.errors import StackError, StartFailed
from stack.log import Log
from stack.postgres import Postgres
from stack.supervisor import Supervisor
from stack.valkey import Valkey

PROJECT = Path(__file__).resolve().parent.parent
SIDE_BY_SIDE = max(1, min(os.cpu_count() or 1, 4))  # processes that share a run of all tests
EACH_ITS_OWN = "TEST_REDIS_URLS"  # read by tests/own_valkey.py


async def run(command: Sequence[str], *, with_engine: bool = False, valkeys: int = 1) -> int:
    """Run `command` with DATABASE_URL and REDIS_URL of fresh servers; return its exit status.

    Servers that the environment names already are used instead, and a container engine that answers, where
    one is wanted. Of more than one Valkey the addresses are in TEST_REDIS_URLS. Nothing is left behind but
    what was installed."""
    folder = Path(tempfile.mkdtemp(prefix="workspace-trial-")).resolve()
    folder.chmod(0o711)  # the database's own account passes through
    log = Log(folder / "stack.log")
    supervisor = Supervisor(log)
    try:
        environment = await _start(supervisor, folder, log, valkeys)
        if with_engine:
            marked = {"PATH": environment.get("PATH", os.defpath), processes.MARK: str(folder)}
            await own_engine.provide(supervisor, folder, marked, _say)
            if not await asyncio.to_thread(debian.install, "chromium", "chromium", _say):
                _say("There is no chromium, and none can be installed here; the tests of pages will fail.")
        # Not a session of its own: it is the terminal's, with Ctrl-C and a debugger's prompt.
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, cwd=PROJECT, preexec_fn=processes.die_with_parent(signal.SIGTERM)
        )
        _forward_signals(process)
        status = await process.wait()
        return status if status >= 0 else 128 - status
    except StartFailed as failure:
        raise StackError("\n".join([str(failure), *failure.tail])) from failure
    finally:
        await supervisor.stop()
        processes.end(processes.belonging_to(folder))
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


async def _start(supervisor: Supervisor, folder: Path, log: Log, valkeys: int) -> dict[str, str]:
    """Start the servers that the environment does not name; return the environment of the command."""
    environment = dict(os.environ)
    environment.setdefault("DJANGO_SECRET_KEY", secrets.token_urlsafe(32))
    environment.setdefault("PROVISIONER", "none")  # whatever this machine has: a test wires what it wants
    marked = {"PATH": environment.get("PATH", os.defpath), processes.MARK: str(folder)}
    postgres_port, *valkey_ports = ports.choose(1 + valkeys)
    if not environment.get("DATABASE_URL"):
        account = accounts.database_account()
        passwords = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        postgres = Postgres(folder / "postgres", postgres_port, *passwords, account=account, throw_away=True)
        await asyncio.to_thread(postgres.prepare, log.say)
        await supervisor.start([postgres.service(marked)], lambda name, seconds: None)
        await postgres.create_database()
        environment["DATABASE_URL"] = postgres.url
    if not environment.get("REDIS_URL"):
        password = secrets.token_urlsafe(16)
        started = [Valkey(folder / f"valkey-{port}", port, password) for port in valkey_ports]
        for valkey in started:
            valkey.prepare()
            await supervisor.start([valkey.service(marked)], lambda name, seconds: None)
        environment["REDIS_URL"] = started[0].url
        environment[EACH_ITS_OWN] = " ".join(valkey.url for valkey in started)
    return environment


def _forward_signals(process: asyncio.subprocess.Process) -> None:
    """Let `process` end when we shall end, and end after it. Ctrl-C it gets from the terminal by itself."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        if process.returncode is None:
            process.terminate()

    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGHUP, end)
    loop.add_signal_handler(signal.SIGINT, lambda: None)


def test_command(arguments: Sequence[str]) -> list[str]:
    """pytest with `arguments`; without any, all tests, side by side where each process can have a Valkey.

    A file stays in one process: what it has started serves all its tests.
    """
    if arguments:
        return [sys.executable, "-m", "pytest", *arguments]
    shared = [] if os.environ.get("REDIS_URL") else ["-n", str(SIDE_BY_SIDE), "--dist", "loadfile"]
    return [sys.executable, "-m", "pytest", *shared, "tests"]
