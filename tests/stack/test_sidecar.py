"""The memory plugin beside the server: started on demand, gated, and given up only where that is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import ports
from tests.stack.conftest import reachable_folder
from tests.stack.running import Running, ask, eventually

pytestmark = pytest.mark.timeout(300)
ANSWERS = """
import http.server
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v1/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Health).serve_forever()
"""
URL = "MEMORY_PLUGIN_URL"


@pytest.fixture
def home() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


@pytest.fixture
def port() -> int:
    return int(ports.choose(1)[0])


def begin(home: Path, port: int, **environment: str) -> Running:
    wanted = {"SMALL_MEMORY": f"print('127.0.0.1 {port}')", URL: f"http://127.0.0.1:{port}"}
    return Running("tests.stack.small", home / "data", ports.choose(1)[0], **{**wanted, **environment})


def test_a_plugin_that_answers_is_up_before_the_server(home: Path, port: int) -> None:
    running = begin(home, port, SMALL_PLUGIN=ANSWERS.format(port=port))
    try:
        running.until_up()
        told = running.output
        healthy = told.index(f"memory-plugin: \u2705 sidecar healthy on 127.0.0.1:{port}")
        assert healthy < told.index("api ready")
        assert ask(f"http://127.0.0.1:{port}/v1/health").status == 200
    finally:
        running.kill_whatever_is_left()
    eventually(lambda: ask(f"http://127.0.0.1:{port}/v1/health").status == 0)


def test_one_that_dies_keeps_the_server_from_starting_at_once(home: Path, port: int) -> None:
    running = begin(home, port, SMALL_PLUGIN="raise SystemExit('no database')")
    try:
        assert running.process.wait(60) != 0
        assert "memory-plugin: \u274c /v1/health never returned 200 after 30s" in running.output
        assert "no database" in running.output
        assert "api ready" not in running.output
    finally:
        running.kill_whatever_is_left()


def test_where_it_is_not_required_the_server_starts_without_its_address(home: Path, port: int) -> None:
    running = begin(home, port, SMALL_PLUGIN="raise SystemExit(7)", MEMORY_PLUGIN_REQUIRED="0")
    try:
        running.until_up()
        assert "the server starts without it" in running.output
        assert URL not in running.part("api").environ()
    finally:
        running.kill_whatever_is_left()


def test_what_is_not_wanted_is_not_started(home: Path, port: int) -> None:
    running = begin(home, port, SMALL_MEMORY="raise SystemExit(3)", SMALL_PLUGIN=ANSWERS.format(port=port))
    try:
        running.until_up()
        assert "memory-plugin" not in running.output
        assert running.part("api").environ()[URL]  # an external plugin stays where it is
        assert ask(f"http://127.0.0.1:{port}/v1/health").status == 0
    finally:
        running.kill_whatever_is_left()


def test_an_address_nobody_understands_is_a_clear_end(home: Path, port: int) -> None:
    running = begin(home, port, SMALL_MEMORY="raise SystemExit(2)")
    try:
        assert running.process.wait(60) != 0
        assert "whether a memory plugin is wanted cannot be told" in running.output
    finally:
        running.kill_whatever_is_left()
