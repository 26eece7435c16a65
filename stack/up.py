"""`make up`: everything on this machine, in the foreground, until it is asked to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from stack import accounts, application, banner, containers, folder, guard, ports, probes, processes, sidecar
from stack.application import Application
from stack.child import run_step
from stack.errors import StackError, StartFailed
from stack.lock import Lock
from stack.log import Log
from stack.nginx import Nginx
from stack.postgres import Postgres
from stack.secrets import Secrets, load
from stack.supervisor import Service, Supervisor
from stack.valkey import Valkey

ANSWERS_WITHIN_S = 30.0
EVERY_ADDRESS = "0.0.0.0"


def up(data_dir: str, port: int, *, is_open: bool, product: type[Application] = Application) -> int:
    """Run the stack until a signal asks it to stop; return the exit status. Raises StackError."""
    home = folder.absolute(data_dir)
    folder.create(home)
    lock = Lock.take_or_holder(home)
    if not isinstance(lock, Lock):
        where = _read(home / "url") or "an address not known yet"
        print(f"Already running at {where}, pid {lock}; `make down` stops it.")
        return 0
    try:
        processes.end(processes.belonging_to(home))
        _require_free(port)
        log = Log(home / "stack.log")
        try:
            return asyncio.run(Stack(home, port, is_open, log, product).run())
        finally:
            log.close()
    finally:
        lock.release()


@dataclass
class Stack:
    """One run of `make up`."""

    home: Path
    port: int
    is_open: bool
    log: Log
    product: type[Application]

    def __post_init__(self) -> None:
        self._supervisor = Supervisor(self.log)
        self._progress = Progress(self.log)

    async def run(self) -> int:
        """Start, stay, stop; 0 after a stop that was asked for. Raises StackError when it cannot start."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()  # raises what went wrong
                await stopping
            return 0
        except StartFailed as failure:
            for line in failure.tail:
                self.log.say(f"    {line}")
            raise
        finally:
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
            await self._stop()

    async def _start(self) -> None:
        secrets = load(self.home)
        home, environ = self.home, os.environ
        database_port, valkey_port, api, files, realtime = ports.choose(5, avoid=self.port)
        account = accounts.database_account()
        passwords = secrets.postgres_superuser_password, secrets.postgres_password
        postgres = Postgres(home / "postgres", database_port, *passwords, account=account)
        valkey = Valkey(home / "valkey", valkey_port, secrets.valkey_password)
        own_postgres, own_valkey = not environ.get("DATABASE_URL"), not environ.get("REDIS_URL")
        environment: Mapping[str, str] = application.environment(
            folder=home,
            port=self.port,
            secrets=secrets,
            database_url=environ.get("DATABASE_URL") or postgres.url,
            redis_url=environ.get("REDIS_URL") or valkey.url,
            is_open=self.is_open,
        )
        folder.fill(home / "catalogue", application.CATALOGUE)
        ours = self.product(environment, api, files, realtime)
        nginx = Nginx(home / "nginx", self.port, api, files, realtime)
        self._progress.total = own_postgres + own_valkey + len(ours.steps()) + len(ours.services()) + 1
        self.log.say(f"Starting Workspace Server, data in {home}")

        # Servers are not told what only the product needs to know.
        plain = {"PATH": environ.get("PATH", os.defpath), "LANG": "C", processes.MARK: str(home)}
        await self._supervisor.start([guard.service(home, plain)], lambda name, seconds: None)
        servers: list[Service] = []
        if own_postgres:
            await asyncio.to_thread(postgres.prepare, self.log.say)
            servers.append(postgres.service(plain))
        else:
            self.log.say(f"database: {_place(environ['DATABASE_URL'])}, from DATABASE_URL")
        if own_valkey:
            valkey.prepare()
            servers.append(valkey.service(plain))
        else:
            self.log.say(f"valkey: {_place(environ['REDIS_URL'])}, from REDIS_URL")
        await self._supervisor.start(servers, self._progress.ready)
        if own_postgres:
            await postgres.create_database()
        for name, command in ours.steps().items():
            seconds = await run_step(
                name, command, log=self.log, environment=environment, cwd=application.PROJECT
            )
            self._progress.done(f"{name} done", seconds)
        environment = await sidecar.start(
            ours.memory_question(), ours.memory_plugin(), supervisor=self._supervisor, log=self.log
        )
        ours = replace(ours, environment=environment)
        await self._supervisor.start(ours.services(), self._progress.ready)
        nginx.prepare(self.log.say)
        await self._supervisor.start([nginx.service(plain)], self._progress.ready)
        await self._open(secrets, environment["PROVISIONER"])

    async def _open(self, secrets: Secrets, provisioner: str) -> None:
        """Check the address from outside, publish it, and go over to the log."""
        answers, deadline = probes.http(self.port), time.monotonic() + ANSWERS_WITHIN_S
        while not await answers():
            if time.monotonic() > deadline:
                raise StartFailed(f"http://localhost:{self.port}/health does not answer 200.", [])
            await asyncio.sleep(0.1)
        url = f"http://localhost:{self.port}"
        folder.write_private(self.home / "url", url + "\n")
        self.log.show(
            banner.banner(
                url=url, folder=self.home, secrets=secrets, provisioner=provisioner, is_open=self.is_open
            )
        )
        self.log.live = True

    async def _stop(self) -> None:
        self.log.live = False
        (self.home / "url").unlink(missing_ok=True)
        self.log.say("Stopping")
        await self._supervisor.stop(self._end_agents)
        await asyncio.to_thread(lambda: processes.end(processes.belonging_to(self.home)))
        self.log.say("Stopped")

    async def _end_agents(self, stage: list[str]) -> None:
        """Before the databases go, and after the workers that would start agents again."""
        self.log.say(f"stopping {', '.join(stage)}")
        if "valkey" in stage or "postgres" in stage:
            count = await asyncio.to_thread(lambda: _end_agents(self.home))
            if count:
                self.log.say(f"stopped {count} agents")


class Progress:
    """One numbered line per step."""

    def __init__(self, log: Log) -> None:
        self.total = 0
        self._log = log
        self._count = 0

    def ready(self, name: str, seconds: float) -> None:
        if name != "guard":
            self.done(f"{name} ready", seconds)

    def done(self, what: str, seconds: float) -> None:
        self._count += 1
        self._log.say(f"[{self._count:2}/{self.total}] {what} in {seconds:.1f} s")


def down(data_dir: str, tell: Callable[[str], None] = print) -> int:
    """Stop the stack of `data_dir`, or what a killed one left, and wait for its end. Raises StackError."""
    home = folder.absolute(data_dir)
    if not home.is_dir():
        tell(f"Not running: there is no {home}.")
        return 0
    lock = Lock.take_or_holder(home)
    if isinstance(lock, Lock):
        leftovers = _end_agents(home) + processes.end(processes.belonging_to(home))
        (home / "url").unlink(missing_ok=True)
        lock.release()
        tell(
            f"Not running; ended {leftovers} processes left by an earlier run."
            if leftovers
            else "Not running."
        )
        return 0
    began = time.monotonic()
    try:
        supervisor = psutil.Process(lock)
        supervisor.send_signal(signal.SIGTERM)
        while processes.runs(supervisor):
            try:
                supervisor.wait(timeout=2)
            except psutil.TimeoutExpired:
                tell(f"stopping pid {lock} ... {time.monotonic() - began:.0f} s")
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as error:
        raise StackError(f"The stack is run by another user as pid {lock}; only they may stop it.") from error
    tell(f"Stopped in {time.monotonic() - began:.1f} s.")
    return 0


def _end_agents(home: Path) -> int:
    """End this stack's agents, local processes or containers: without a server they have nothing to do."""
    instance_id = _read(home / "instance-id")
    count = processes.end(processes.agents_of(home))
    return count + (containers.end_agents(instance_id) if instance_id else 0)


def _require_free(port: int) -> None:
    if not ports.is_free(port, EVERY_ADDRESS):
        reason = f"is taken by {owner}" if (owner := ports.owner(port)) else "cannot be used by this account"
        raise StackError(
            f"Port {port} {reason}; choose another one, such as `make up PORT={max(port, 8080) + 1}`."
        )


def _place(url: str) -> str:
    """`url` without its credentials."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}{parts.path}" if parts.port else f"{parts.hostname}{parts.path}"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
