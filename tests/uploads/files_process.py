"""The real process that serves bodies, started as the stack starts it, and how much memory it takes."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings as django_settings

from stack import ports
from stack.application import command
from tests.activity.processes import environment
from tests.conftest import ADMIN_TOKEN
from tests.uploads.requests import CONTENT_TYPE

MIB = 1024 * 1024


class FilesProcess:
    def __init__(self, folder: Path, **more: str) -> None:
        (self.port,) = ports.choose(1)
        self.log = folder / f"files-{self.port}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command("files", port=self.port),
                cwd=django_settings.BASE_DIR,
                env={**environment(), **more},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self._is_up():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def _is_up(self) -> bool:
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Status and body; an iterable is sent in chunks."""
        connection = self.connection()
        given = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": CONTENT_TYPE, **headers}
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused half way: there is an answer
                connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    @contextmanager
    def growth(self) -> Iterator[list[float]]:
        """Yields a list that gets the peak growth of resident memory during the block, MiB."""
        found: list[float] = []
        worker = max(
            psutil.Process(self.process.pid).children(recursive=True), key=lambda one: one.memory_info().rss
        )
        Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # the peak begins anew
        before = _status_kib(worker.pid, "VmRSS")
        yield found
        found.append((_status_kib(worker.pid, "VmHWM") - before) / 1024)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(f"{name} is not told of {pid}")
