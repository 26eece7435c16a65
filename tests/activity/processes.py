"""Real processes of one deployment around a test: realtime servers, and a publisher that is neither."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.conf import settings as django_settings
from django.db import connection

from stack import ports
from stack.application import command
from tests.conftest import ADMIN_TOKEN

# Publishes from outside every web process, as a worker does: through the product's own verbs.
PUBLISHER = """
import json, sys
import django
django.setup()
from uuid import UUID
from activity.events import EventType, broadcast, record
emit = {"record": record, "broadcast": broadcast}
for line in sys.stdin:
    verb, event, workspace_id, payload = json.loads(line)
    emit[verb](EventType(event), UUID(workspace_id), payload)
    print("done", flush=True)
"""


def environment() -> dict[str, str]:
    """What a process of this deployment gets: the test's database and Valkey."""
    database = urlsplit(django_settings.DATABASE_URL)._replace(path=f"/{connection.settings_dict['NAME']}")
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATABASE_URL": database.geturl(),
        "REDIS_URL": django_settings.REDIS_URL,
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "RATE_LIMIT": "1000000",
        "PYTHONUNBUFFERED": "1",
    }


class Realtime:
    """One realtime process, started exactly as the stack starts it."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = ports.choose(1)
        self.log = folder / f"realtime-{self.port}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command("realtime", port=self.port),
                cwd=django_settings.BASE_DIR,
                env=environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait(timeout=20)


class Publisher:
    """A process without sockets."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER],
            cwd=django_settings.BASE_DIR,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def emit(self, verb: str, event: str, workspace_id: Any, payload: dict[str, Any]) -> None:
        """Returns once the event has left."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([verb, event, str(workspace_id), payload]) + "\n")
        self.process.stdin.flush()
        while self.process.stdout.readline().strip() != "done":
            assert self.process.poll() is None

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)


def deaf_socket(server: Realtime) -> socket.socket:
    """A canvas that shakes hands and then never reads, with a small buffer of its own."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    raw.sendall(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Authorization: Bearer " + ADMIN_TOKEN.encode() + b"\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += raw.recv(1)
    assert b"101" in answer.split(b"\r\n")[0], answer
    return raw
