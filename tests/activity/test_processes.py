"""Several real processes: what any of them says reaches a client of any other exactly once."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from django.db import connection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from access.models import TokenKind
from access.services import mint_token
from activity.models import BackgroundJob, MetricCounter
from tests.activity.processes import Publisher, Realtime, deaf_socket
from tests.clients import admin
from tests.conftest import ADMIN_TOKEN
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]
BEARER = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


def running(folder: Path, count: int) -> Iterator[list[Realtime]]:
    found = [Realtime(folder) for _ in range(count)]
    try:
        for server in found:
            server.wait_until_up()
        yield found
    finally:
        for server in found:
            server.end()


@pytest.fixture(scope="module")
def pair(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Realtime]]:
    """Two processes for the tests that leave them alive: a start takes seconds."""
    yield from running(tmp_path_factory.mktemp("pair"), 2)


@pytest.fixture
def servers(pair: list[Realtime], valkey: Any) -> list[Realtime]:
    return pair


@pytest.fixture
def one_server(servers: list[Realtime]) -> Realtime:
    return servers[0]


@pytest.fixture
def mortal(tmp_path: Path, valkey: Any) -> Iterator[Realtime]:
    """A process that the test ends."""
    for found in running(tmp_path, 1):
        yield found[0]


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    found = Publisher()
    try:
        found.emit("broadcast", "WORKSPACE_OFFLINE", WorkspaceFactory().pk, {})  # it has started
        yield found
    finally:
        found.end()


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory()


def canvas(server: Realtime, **headers: str) -> ClientConnection:
    return connect(server.socket_url, additional_headers={**BEARER, **headers}, compression="deflate")


def frames(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next frames but signs of life, and that no other follows them."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        frame = json.loads(socket.recv(timeout=10))
        if frame["event"] != "WORKSPACE_HEARTBEAT":
            found.append(frame)
    with pytest.raises(TimeoutError):
        socket.recv(timeout=0.3)
    return found


def gauge() -> float | None:
    text = admin().get("/metrics").content.decode()
    found = re.search(r"^molecule_websocket_connections_active (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def log_on(server: Realtime, workspace: Workspace, text: str) -> None:
    """An event from within a web process: a line of the feed, logged over HTTP."""
    body = {"activity_type": "agent_log", "summary": text}
    path = f"{server.url}/workspaces/{workspace.pk}/activity"
    assert httpx.post(path, json=body, headers=BEARER, timeout=10).status_code == 200


def test_every_event_reaches_every_socket_once_whoever_sent_it(
    servers: list[Realtime], publisher: Publisher, workspace: Workspace
) -> None:
    one, other = servers
    with canvas(one) as here, canvas(other) as there:
        eventually(lambda: gauge() == 2)
        for number in range(10):
            publisher.emit("record", "WORKSPACE_PAUSED", workspace.pk, {"name": f"worker {number}"})
        log_on(one, workspace, "from one")
        log_on(other, workspace, "from other")
        admin().post(f"/workspaces/{workspace.pk}/notify", {"message": "from a third"})
        for socket in (here, there):
            seen = frames(socket, 13)
            names = [frame["payload"]["name"] for frame in seen if frame["event"] == "WORKSPACE_PAUSED"]
            assert names == [f"worker {number}" for number in range(10)]
            rest = [frame["payload"] for frame in seen if frame["event"] != "WORKSPACE_PAUSED"]
            assert [one.get("summary", one.get("message")) for one in rest] == [
                "from one",
                "from other",
                "from a third",
            ]
    eventually(lambda: gauge() == 0)


def test_a_stream_gets_its_events_once_and_holds_nothing_else(
    servers: list[Realtime], publisher: Publisher, workspace: Workspace
) -> None:
    other = WorkspaceFactory()
    path = f"{servers[0].url}/workspaces/{workspace.pk}/events/stream"
    with httpx.stream("GET", path, headers=BEARER, timeout=10) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["x-content-type-options"] == "nosniff"
        lines = stream.iter_lines()
        assert (next(lines), next(lines)) == (": ping", "")
        publisher.emit("broadcast", "WORKSPACE_HEARTBEAT", workspace.pk, {"active_tasks": 1})
        publisher.emit("record", "WORKSPACE_PAUSED", other.pk, {"name": "not mine"})
        log_on(servers[1], workspace, "from the other process")
        log_on(servers[0], workspace, "the last one")
        events = []
        for line in lines:
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
            if len(events) == 3:
                break
        assert [event["type"] for event in events] == ["WORKSPACE_HEARTBEAT", *["ACTIVITY_LOGGED"] * 2]
        assert [event["data"].get("summary") for event in events[1:]] == [
            "from the other process",
            "the last one",
        ]
        assert gauge() == 0  # a stream is no socket


def test_many_idle_streams_cost_a_process_no_threads(servers: list[Realtime], workspace: Workspace) -> None:
    process = psutil.Process(servers[0].process.pid)
    path = f"{servers[0].url}/workspaces/{workspace.pk}/events/stream"
    limits = httpx.Limits(max_connections=60)
    with httpx.Client(headers=BEARER, timeout=20, limits=limits) as http:
        opened = []
        for _ in range(40):
            context = http.stream("GET", path)
            stream = context.__enter__()
            assert next(stream.iter_raw()).startswith(b": ping")
            opened.append(context)
        eventually(lambda: process.num_threads() < 25)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND state LIKE 'idle in transaction%'"
            )
            assert cursor.fetchone() == (0,)
        assert httpx.get(f"{servers[0].url}/health", timeout=5).status_code == 200
        for context in opened:
            context.__exit__(None, None, None)


def test_a_client_that_stops_reading_is_dropped_and_publishers_stay_fast(
    servers: list[Realtime], publisher: Publisher, workspace: Workspace
) -> None:
    deaf = deaf_socket(servers[0])
    seen: list[int] = []
    with canvas(servers[0]) as quick:
        eventually(lambda: gauge() == 2)

        def read() -> None:
            for message in quick:
                frame = json.loads(message)
                if frame["event"] == "TASK_UPDATED":
                    seen.append(frame["payload"]["active_tasks"])

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        slowest = 0.0
        count, task = 600, "x" * 30_000  # more than the buffers of the kernel and of the queue hold
        for number in range(count):
            began = time.monotonic()
            payload = {"current_task": task, "active_tasks": number}
            publisher.emit("broadcast", "TASK_UPDATED", workspace.pk, payload)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2
        eventually(lambda: len(seen) == count, within_s=30)
        assert seen == list(range(count))
        dropped = MetricCounter.objects.filter(name="molecule_ws_clients_dropped_total", value=1)
        eventually(dropped.exists)
        eventually(lambda: gauge() == 1)

        data = b""
        deaf.settimeout(10)
        while chunk := deaf.recv(1 << 20):
            data += chunk
        assert data.endswith(b"\x88\x02" + (1013).to_bytes(2, "big"))
    deaf.close()
    eventually(lambda: gauge() == 0)


def test_told_to_end_a_process_says_goodbye_to_sockets_and_ends_its_streams(
    mortal: Realtime, workspace: Workspace
) -> None:
    path = f"{mortal.url}/workspaces/{workspace.pk}/events/stream"
    with canvas(mortal) as socket, httpx.stream("GET", path, headers=BEARER, timeout=10) as stream:
        raw = stream.iter_raw()
        assert next(raw).startswith(b": ping")
        mortal.end(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                socket.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert b"".join(raw) == b""
    assert "ERROR" not in mortal.log.read_text()


def test_the_sockets_of_a_killed_process_are_forgotten(
    mortal: Realtime, one_server: Realtime, valkey: Any
) -> None:
    with canvas(mortal) as gone, canvas(one_server):
        eventually(lambda: gauge() == 2)
        mortal.end()
        (name,) = valkey.scan_iter(f"sockets:*:{mortal.process.pid}:*")
        assert 0 < valkey.ttl(name) <= 30
        valkey.delete(name)  # half a minute later
        assert gauge() == 1
        gone.close_socket()


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({}, 401, "canvas auth required"),
        ({"Authorization": "Bearer junk"}, 401, "invalid canvas auth token"),
        ({"X-Workspace-ID": "{own}"}, 401, "missing workspace auth token"),
        ({"X-Workspace-ID": "{own}", "Authorization": "Bearer {other}"}, 401, "invalid workspace auth token"),
        ({"Authorization": "Bearer {other}"}, 401, "invalid canvas auth token"),
        ({"X-Workspace-ID": "global", **BEARER}, 400, "invalid workspace ID"),
        ({"Origin": "https://evil.example", **BEARER}, 403, "origin not allowed"),
    ],
)
def test_a_refused_handshake_says_why(
    one_server: Realtime, headers: dict[str, str], status: int, text: str
) -> None:
    own, other = WorkspaceFactory(), WorkspaceFactory()
    token = mint_token(workspace_id=other.pk, kind=TokenKind.INSTANCE)
    given = {name: value.format(own=own.pk, other=token) for name, value in headers.items()}
    with pytest.raises(InvalidStatus) as refused:
        connect(one_server.socket_url, additional_headers=given)
    response = refused.value.response
    assert (response.status_code, json.loads(response.body or b"")) == (status, {"error": text})


def test_a_browsers_credential_is_not_echoed(one_server: Realtime) -> None:
    offered = ["molecule-ws", f"molecule-auth.{ADMIN_TOKEN.encode().hex()}"]
    with connect(one_server.socket_url, subprotocols=offered) as socket:  # type: ignore[arg-type]
        assert socket.subprotocol == "molecule-ws"


def test_a_client_that_talks_too_much_is_closed(one_server: Realtime) -> None:
    with canvas(one_server) as socket:
        socket.send("x" * 4096)
        socket.send("x" * 4097)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_a_realtime_process_is_on_record_as_alive(one_server: Realtime) -> None:
    ticks = BackgroundJob.objects.filter(pk="broadcaster", last_tick_at__isnull=False)
    eventually(ticks.exists, within_s=30)
