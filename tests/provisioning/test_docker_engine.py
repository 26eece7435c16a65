"""An engine that answered once and then hangs, as a suspended daemon does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from provisioning.backends.base import BackendError
from provisioning.backends.docker import engine as engines
from provisioning.backends.docker.engine import Engine, explained


class Suspendable(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.runs, self.asked = threading.Event(), list[str]()
        self.runs.set()
        super().__init__(("127.0.0.1", 0), Answers)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Suspendable

    def do_GET(self) -> None:
        self.server.asked.append(self.path.rpartition("/")[2])
        self.server.runs.wait()
        body = b'{"ApiVersion": "1.41", "NCPU": 7}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def daemon() -> Iterator[Suspendable]:
    with Suspendable() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.runs.set()
        server.shutdown()


def test_an_engine_that_hangs_costs_a_ping_and_not_a_call(daemon, monkeypatch):
    monkeypatch.setattr(engines, "FIRST_S", 0.2)
    monkeypatch.setattr(engines, "TRUSTED_S", 0.0)
    one = Engine(daemon.address)
    assert one.api.info()["NCPU"] == 7
    daemon.runs.clear()
    began = time.monotonic()
    with pytest.raises(BackendError) as raised, explained("refused"):
        one.api.info()
    assert time.monotonic() - began < engines.CALL_S / 2
    assert raised.value.safe_message == engines.UNREACHABLE
    daemon.runs.set()
    assert one.api.info()["NCPU"] == 7


def test_an_engine_that_answered_a_moment_ago_is_not_asked_again(daemon, monkeypatch):
    monkeypatch.setattr(engines, "TRUSTED_S", 600.0)
    one = Engine(daemon.address)
    for _ in range(3):
        one.api.info()
    assert (daemon.asked.count("_ping"), daemon.asked.count("info")) == (1, 3)
