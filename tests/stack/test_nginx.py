"""The front door: real nginx with the product's template, tiny servers behind it."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from config.limits import READ_AWAY_BYTES, body_limit
from stack import ports, processes
from stack.application import PROJECT
from stack.log import Log
from stack.nginx import TEMPLATE, Nginx, binary, origins_map, render
from stack.supervisor import Supervisor
from tests.stack.running import Answer, ask, eventually
from tests.stack.small import Small
from uploads.limits import MAX_REQUEST_BYTES

ASIDE = {"tests", "stack", "agent", "bench"}
ID = "11111111-2222-3333-4444-555555555555"


class Door:
    def __init__(self, folder: Path) -> None:
        self.port, self.api_port, self.files_port, self.realtime_port = ports.choose(4)
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._supervisor = Supervisor(Log(stream=sys.stderr))

    def open(self) -> None:
        environment = {processes.MARK: str(self._folder), "PATH": ""}
        pools = self.api_port, self.files_port, self.realtime_port
        nginx = Nginx(self._folder / "nginx", self.port, *pools)
        nginx.prepare(print)
        services = [service for service in Small(environment, *pools).services() if service.name != "worker"]
        self._loop.run_until_complete(self._supervisor.start(services, lambda name, seconds: None))
        self._loop.run_until_complete(
            self._supervisor.start([nginx.service(environment)], lambda name, seconds: None)
        )

    def kill_pools(self) -> None:
        """For good: the loop of the supervisor does not run, so nothing is started again."""
        for name, pid in self._supervisor.pids().items():
            if name != "nginx":
                psutil.Process(pid).kill()
        for port in (self.api_port, self.files_port, self.realtime_port):
            eventually(partial(ports.is_free, port))

    def close(self) -> None:
        self._loop.run_until_complete(self._supervisor.stop())
        self._loop.close()


@contextmanager
def opened() -> Iterator[Door]:
    with tempfile.TemporaryDirectory(prefix="workspace-door-") as folder:
        door = Door(Path(folder).resolve())
        try:
            door.open()
            yield door
        finally:
            door.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with opened() as one:
        yield one


def get(door: Door, path: str, **headers: str) -> Answer:
    return ask(door.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("/", "api"),
        ("/health", "api"),
        ("/workspaces", "api"),
        (f"/workspaces/{ID}", "api"),
        (f"/workspaces/{ID}/activity", "api"),
        (f"/workspaces/{ID}/a2a/queue/7", "api"),
        (f"/workspaces/{ID}/terminal/diagnose", "api"),
        (f"/workspaces/{ID}/filesystem", "api"),
        ("/templates", "api"),
        ("/org/import", "api"),
        ("/console/", "api"),
        ("/wsx", "api"),
        ("//double//slashes", "api"),
        (f"/workspaces/{ID}/chat/uploads", "files"),
        (f"/workspaces/{ID}/chat/download?path=x", "files"),
        (f"/workspaces/{ID}/pending-uploads", "files"),
        (f"/workspaces/{ID}/pending-uploads/9/content", "files"),
        (f"/workspaces/{ID}/files", "files"),
        (f"/workspaces/{ID}/files/a/b%20c.txt", "files"),
        (f"/workspaces/{ID}/plugins/p/download", "files"),
        (f"/workspaces/{ID}/channels/{ID}/send", "files"),
        (f"/workspaces/{ID}/channels/{ID}/test/", "files"),
        ("/channels/discover", "files"),
        (f"/workspaces/{ID}/channels/{ID}", "api"),
        ("/channels/adapters", "api"),
        ("/webhooks/telegram", "api"),
        ("/templates/import", "files"),
        ("/bundles/import", "files"),
        (f"/bundles/export/{ID}", "files"),
        ("/admin/memories/import", "files"),
        ("/admin/memories/export", "files"),
        ("/ws", "realtime"),
        (f"/workspaces/{ID}/events/stream", "realtime"),
        (f"/workspaces/{ID}/a2a", "realtime"),
        (f"/workspaces/{ID}/a2a/", "realtime"),
        (f"/workspaces/{ID}/mcp", "realtime"),
        (f"/workspaces/{ID}/mcp/stream", "realtime"),
        (f"/workspaces/{ID}/terminal", "realtime"),
    ],
)
def test_the_path_decides_which_pool_answers(door: Door, path: str, who: str) -> None:
    answer = get(door, path).json()
    assert (answer["who"], answer["path"]) == (who, path)


def test_the_caller_is_told_truthfully(door: Door) -> None:
    headers = get(door, "/health", X_Forwarded_For="203.0.113.9", X_Forwarded_Proto="https").json()["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"  # what the client claims is not passed on
    assert headers["x-forwarded-proto"] == "http"
    assert headers["host"] == f"127.0.0.1:{door.port}"
    assert "connection" not in headers


def test_an_upgrade_is_passed_on(door: Door) -> None:
    headers = get(door, "/ws", Upgrade="websocket", Connection="Upgrade").json()["headers"]
    assert (headers["upgrade"], headers["connection"]) == ("websocket", "upgrade")


@pytest.mark.parametrize(
    ("path", "passes", "refused", "body"),
    [
        ("/org/import", 8 << 20, 10 << 20, {"error": "request body too large"}),
        *(
            (path, 32 << 20, (32 << 20) + 1, {"error": "request body too large"})
            for path in (
                "/templates/import",
                f"/workspaces/{ID}/files",
                f"/workspaces/{ID}/files/a",
                "/bundles/import",
            )
        ),
        ("/admin/memories/import", 64 << 20, (64 << 20) + 1, {"error": "request body too large"}),
        (
            f"/workspaces/{ID}/chat/uploads",
            MAX_REQUEST_BYTES,
            MAX_REQUEST_BYTES + 1,
            {"error": "request body too large", "max": MAX_REQUEST_BYTES},
        ),
        (
            f"/workspaces/{ID}/a2a",
            16 << 20,
            17 << 20,
            {"error": "request body exceeds 16777216 byte limit", "truncated": True, "max_bytes": 16777216},
        ),
    ],
)
def test_bodies_have_limits(
    door: Door, path: str, passes: int, refused: int, body: dict[str, object]
) -> None:
    assert ask(door.url + path, body=bytes(passes)).json()["size"] == passes
    # Announced, and not sent: the answer must not wait for the body.
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=5)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(refused))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert answer.getheader("Content-Type") == "application/json"
    assert Answer(413, {}, answer.read().decode()).json() == body
    connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/workspaces",
        "/org/import",
        "/templates/import",
        "/bundles/import",
        "/admin/memories/import",
        f"/workspaces/{ID}/files",
        f"/workspaces/{ID}/files/a",
        f"/workspaces/{ID}/memory",
        f"/workspaces/{ID}/pending-uploads/9/ack",
        f"/workspaces/{ID}/plugins/p/download",
        f"/workspaces/{ID}/mcp",
        f"/workspaces/{ID}/a2a",
    ],
)
def test_what_the_product_refuses_it_can_read_to_the_end(door: Door, path: str) -> None:
    """What the door lets through and the product refuses is read away, so that its answer arrives."""
    limit = body_limit(path)
    assert limit is not None
    body = bytes(limit + READ_AWAY_BYTES + 1)
    answer = ask(door.url + path, body=body)
    assert (answer.status, answer.json()["error"].startswith("request body")) == (413, True)


def test_a_nul_in_a_files_path_has_the_words_of_the_product(door: Door) -> None:
    for path, text in (
        (f"/workspaces/{ID}/files/%00", "invalid path"),
        (f"/workspaces/{ID}/files/a/b%00c?root=/home", "invalid path"),
        (f"/workspaces/{ID}/files/a?root=%00", None),  # is no path
        ("/workspaces/%00/files/a", "bad request"),
        (f"/workspaces/{ID}/activity/%00", "bad request"),
    ):
        answer = get(door, path)
        assert (answer.status, answer.json().get("error")) == (400 if text else 200, text)


def test_json_is_compressed_for_those_who_ask(door: Door) -> None:
    raw = http.client.HTTPConnection("127.0.0.1", door.port, timeout=5)
    raw.request("GET", "/" + "x" * 2000, headers={"Accept-Encoding": "gzip"})
    answer = raw.getresponse()
    assert answer.getheader("Content-Encoding") == "gzip"
    assert b"xxxx" in gzip.decompress(answer.read())
    raw.close()


def test_nginx_does_not_tell_its_version(door: Door) -> None:
    assert get(door, "/health").headers["server"] == "nginx"


def raw_answer(door: Door, path: str, *headers: str) -> bytes:
    with socket.create_connection(("127.0.0.1", door.port), timeout=5) as raw:
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
        raw.sendall("\r\n".join([*lines, "", ""]).encode())
        found = b""
        while piece := raw.recv(65_536):
            found += piece
        return found


def test_headers_that_command_line_clients_look_for_have_their_usual_spelling(door: Door) -> None:
    answer = raw_answer(door, "/in-small-letters")
    for line in (
        b"Retry-After: 7",
        b'Content-Disposition: attachment; filename="a b.txt"',
        b"X-RateLimit-Remaining: 0",
    ):
        assert answer.count(line) == 1
    assert b"retry-after" not in answer
    assert b"Retry-After" not in raw_answer(door, "/health")


def test_every_header_of_ours_is_spelled_by_the_door() -> None:
    """The servers behind it send small letters; what the template does not name stays so."""
    asked = {
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Molecule-Org-Id",
        "X-Accel-Buffering",
    }
    rooms = [one for one in PROJECT.iterdir() if (one / "__init__.py").is_file() and one.name not in ASIDE]
    texts = [path.read_text() for room in rooms for path in room.rglob("*.py")]
    sent = {name for text in texts for name in re.findall(r'"(X-[A-Za-z-]+)"', text)} - asked
    template = TEMPLATE.read_text()
    assert "X-Templates-Broken" in sent
    assert {name for name in sent if f"add_header {name} " not in template} == set()


def test_a_header_too_large_is_a_431(door: Door) -> None:
    answer = raw_answer(door, "/health", "X-Long: " + "x" * 9000)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'{"error":"request header fields too large"}' in answer


def test_a_request_that_is_none_gets_json(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nBad header\x00: y\r\n\r\n")
        assert b'{"error":"bad request"}' in raw.recv(65_536)


def test_a_dead_pool_is_a_503_that_says_when_to_retry() -> None:
    with opened() as door:
        door.kill_pools()
        for path in ("/workspaces", f"/workspaces/{ID}/files", f"/workspaces/{ID}/a2a"):
            answer = ask(door.url + path)
            assert answer.status == 503
            assert answer.headers["retry-after"] == "2"
            assert answer.headers["content-type"] == "application/json"
            expected = {"error": "server restarting — retry shortly", "code": "platform_unavailable"}
            assert answer.json() == expected


def test_an_event_stream_is_not_held_back() -> None:
    """Each piece arrives before the next one is sent."""
    first_arrived = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            if first_arrived.wait(5):
                connection.sendall(b"data: 2\n\n")

    with opened() as door:
        door.kill_pools()
        with socket.create_server(("127.0.0.1", door.realtime_port)) as listener:
            pool = threading.Thread(target=serve, args=[listener])
            pool.start()
            connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
            connection.request("GET", f"/workspaces/{ID}/events/stream")
            answer = connection.getresponse()
            assert answer.readline() == b"data: 1\n"
            first_arrived.set()
            assert answer.read() == b"\ndata: 2\n\n"
            connection.close()
            pool.join()


def test_the_values_of_compose_make_a_configuration(tmp_path: Path) -> None:
    given = YAML(typ="safe").load(PROJECT / "compose.yaml")["services"]["nginx"]["environment"]
    values = {name: str(value) for name, value in given.items()} | {
        "MAIN_DIRECTIVES": "",  # its account is the image's
        "RUN_DIR": str(tmp_path),
        "FORWARDED_PROTO": "$scheme",
        "FORWARDED_FOR": "$remote_addr",
        "CORS_ORIGINS_MAP": origins_map("https://canvas.example"),
    }
    (tmp_path / "nginx.conf").write_text(render(TEMPLATE.read_text(), values))
    checked = subprocess.run(
        [binary(), "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_a_name_without_a_value_is_an_error() -> None:
    assert render("listen ${LISTEN}; $host", {"LISTEN": "80"}) == "listen 80; $host"
    with pytest.raises(KeyError):
        render("${UNKNOWN}", {})
