"""A stack as its own process, driven as a person would drive it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from stack import processes
from stack.application import PROJECT

T = TypeVar("T")

DEADLINE_S = 60.0
UP_S = 110.0  # thirteen processes on a machine that does other things
# What the command line of each service has, of the small product or of the real one.
PARTS = {
    "postgres": "pginstall",
    "valkey": "valkey-server",
    "nginx": "nginx: master",
    "guard": "stack guard",
    "api": "'api'|granian.*--workers 2",
    "files": "'files'|granian.*--workers 1",
    "realtime": "'realtime'|uvicorn",
    "worker": "worker ready|-n worker@",
    "delegations": "-n delegations@",
    "sweeps": "-n sweeps@",
    "beat": "config beat",
}
FOREIGN = (
    "DATABASE_URL",
    "REDIS_URL",
    "ADMIN_TOKEN",
    "DJANGO_SECRET_KEY",
    "SECRETS_ENCRYPTION_KEY",
    "MOLECULE_ENV",
)


def eventually(condition: Callable[[], T], within_s: float = DEADLINE_S) -> T:
    """The first true result of `condition`; an AssertionError when there is none `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within_s:.0f} s: {condition}")
        time.sleep(0.05)


def plain_environment(**more: str) -> dict[str, str]:
    """Ours without what the servers of the test run would bring in; agents are processes unless told."""
    ours = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return {**ours, "PROVISIONER": "process", **more}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def ask(
    url: str, *, body: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None
) -> Answer:
    """One request; status 0 when nobody answers."""
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return Answer(response.status, _lower(response.headers), response.read().decode())
    except urllib.error.HTTPError as error:
        return Answer(error.code, _lower(error.headers), error.read().decode())
    except OSError as error:
        return Answer(0, {}, str(error))


class Running:
    """`up` with `module` on `port` and `folder`; its output is collected in a file."""

    def __init__(self, module: str, folder: Path, port: int, *options: str, **environment: str) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://localhost:{port}"
        self._output = folder.parent / f"{folder.name}.out"
        words = [
            sys.executable,
            "-m",
            *module.split(),
            "--port",
            str(port),
            "--data-dir",
            str(folder),
            *options,
        ]
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                words, cwd=PROJECT, stdout=output, stderr=output, env=plain_environment(**environment)
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def until_up(self, within_s: float = UP_S) -> Running:
        eventually(lambda: self.process.poll() is not None or (self.folder / "url").exists(), within_s)
        assert self.process.poll() is None, self.output
        return self

    def stop(self, what: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(what)
        return self.process.wait(DEADLINE_S)

    def part(self, name: str) -> psutil.Process:
        """The process of the service `name`, found by what it was started with."""

        def found() -> list[psutil.Process]:
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if re.search(PARTS[name], " ".join(_command(child)))]

        eventually(lambda: len(found()) == 1, DEADLINE_S)  # it may just be started again
        return found()[0]

    def is_healthy(self) -> bool:
        return ask(f"{self.url}/health").status == 200

    def leftovers(self) -> list[psutil.Process]:
        return processes.belonging_to(self.folder)

    def kill_whatever_is_left(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        processes.end(self.leftovers(), 2)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
