"""A shell in a workspace's container: who is let in, bytes both ways, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator

from access import sockets
from access.models import TokenKind
from access.services import mint_token, revoke_tokens
from config.asgi import application
from provisioning import consumers, dispatch
from provisioning.backends.base import Compute, ComputeState
from stack import ports
from tests.clients import Api, admin
from tests.conftest import ADMIN_TOKEN
from tests.provisioning.docker_engine import DockerHarness, engine
from tests.provisioning.harness import eventually, spec
from tests.provisioning.machines import CONTAINERS, wired
from tests.uploads.stub_agent import StubAgent, stub_agent
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace
from workspaces.services import inbound_secret

pytestmark = [
    pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey"), pytest.mark.timeout(180),
]  # fmt: skip

OPERATOR = {"authorization": f"Bearer {ADMIN_TOKEN}"}


class Piped:
    """A shell without a container: what is written is printed, `exit` ends it."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.is_closed = threading.Event()

    def read(self) -> bytes:
        try:
            return self._theirs.recv(65536)
        except OSError:
            return b""

    def write(self, given: bytes) -> None:
        if given == b"exit\n":
            self._ours.shutdown(socket.SHUT_RDWR)
        else:
            self._ours.sendall(given)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
        self.is_closed.set()


@pytest.fixture
def piped(monkeypatch: Any) -> Iterator[list[Piped]]:
    """Containers whose shells only echo."""
    opened: list[Piped] = []

    def open_shell(workspace_id: Any, idle_s: int) -> Piped:
        opened.append(Piped())
        return opened[-1]

    backend = wired("docker", CONTAINERS | {"shell"})
    monkeypatch.setattr(backend, "open_shell", open_shell)
    yield opened
    dispatch.choose_again()


class Terminal:
    def __init__(self, workspace: Workspace, **headers: Any) -> None:
        given = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
        scope = {
            "type": "websocket", "path": f"/workspaces/{workspace.pk}/terminal", "query_string": b"",
            "headers": [(b"host", b"testserver"), *given], "subprotocols": [],
            "client": ("127.0.0.1", 50_000), "extensions": {"websocket.http.response": {}},
        }  # fmt: skip
        self._pipe = ApplicationCommunicator(application, scope)
        self.status = 0
        self.refusal: dict[str, Any] = {}

    async def __aenter__(self) -> Terminal:
        await self._pipe.send_input({"type": "websocket.connect"})
        answer = await self._pipe.receive_output(timeout=30)
        self.status = answer.get("status", 101)
        if self.status != 101:
            self.refusal = json.loads((await self._pipe.receive_output(timeout=5))["body"])
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self.status == 101:
            await self._pipe.send_input({"type": "websocket.disconnect", "code": 1000})
            await self._pipe.wait(timeout=30)

    async def type(self, text: str) -> None:
        await self._pipe.send_input({"type": "websocket.receive", "text": text})

    async def until(self, wanted: bytes) -> bytes:
        printed = b""
        while wanted not in printed:
            message = await self._pipe.receive_output(timeout=30)
            assert message["type"] == "websocket.send", (message, printed)
            printed += message.get("bytes") or message["text"].encode()
        return printed

    async def closed(self) -> tuple[int, str]:
        """The code, and the last text before it."""
        told = ""
        while (message := await self._pipe.receive_output(timeout=30))["type"] != "websocket.close":
            told = message.get("text") or told
        return int(message.get("code", 1000)), told


def live(body: Callable[[], Awaitable[None]]) -> None:
    async_to_sync(body)()


def refused(workspace: Workspace, **headers: Any) -> tuple[int, str]:
    found: list[tuple[int, str]] = []

    async def body() -> None:
        async with Terminal(workspace, **headers) as terminal:
            found.append((terminal.status, terminal.refusal.get("error", "")))

    live(body)
    return found[0]


def bearer(workspace: Workspace) -> dict[str, str]:
    return {"authorization": f"Bearer {mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE)}"}


# --- Who is let in


def test_who_may_open_a_terminal(piped: Any) -> None:
    parent = WorkspaceFactory()
    child, stranger = WorkspaceFactory(parent=parent), WorkspaceFactory(parent=WorkspaceFactory())
    claim = {"x_workspace_id": parent.pk}
    assert refused(child)[0] == 401
    assert refused(child, **OPERATOR) == (101, "")
    assert refused(child, **bearer(child)) == (101, "")
    assert refused(child, **bearer(parent))[0] == 401
    assert refused(child, **bearer(parent), **claim) == (101, "")
    assert refused(child, **bearer(child), **claim) == (401, "invalid token for claimed workspace")
    assert refused(stranger, **bearer(parent), **claim)[0] == 403
    assert refused(stranger, **OPERATOR, **claim)[0] == 403
    assert refused(child, **OPERATOR, origin="https://evil.example") == (403, "origin not allowed")
    assert all(shell.is_closed.wait(10) for shell in piped)
    assert len(piped) == 3


def test_why_a_terminal_cannot_be_opened(piped: Any, monkeypatch: Any) -> None:
    assert refused(WorkspaceFactory(runtime="external"), **OPERATOR)[0] == 422
    gone = WorkspaceFactory.build()
    assert refused(gone, **OPERATOR) == (404, "workspace not found")
    monkeypatch.setattr(consumers, "MAX_OPEN", 0)
    assert refused(WorkspaceFactory(), **OPERATOR)[0] == 503


@pytest.mark.usefixtures("no_backend")
def test_without_an_engine_there_is_no_terminal() -> None:
    assert refused(WorkspaceFactory(), **OPERATOR) == (503, "Docker not available")


@pytest.mark.usefixtures("backend")
def test_a_backend_without_shells_has_no_terminal() -> None:
    assert refused(WorkspaceFactory(), **OPERATOR) == (503, "Docker not available")


def test_a_revoked_token_loses_its_terminal(piped: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sockets, "RECHECK_S", 0.1)
    workspace = WorkspaceFactory()
    headers = bearer(workspace)

    async def body() -> None:
        async with Terminal(workspace, **headers) as terminal:
            assert terminal.status == 101
            await sync_to_async(revoke_tokens)(workspace_id=workspace.pk)
            assert (await terminal.closed())[0] == 4401

    live(body)
    assert piped[0].is_closed.wait(10)


# --- While it is open


def test_bytes_pass_as_they_are_and_the_end_is_told(piped: Any) -> None:
    async def body() -> None:
        async with Terminal(workspace, **OPERATOR) as terminal:
            await terminal.type("\x1b[A\u00e9\n")
            assert await terminal.until(b"\n") == b"\x1b[A\xc3\xa9\n"
            await terminal.type("exit\n")
            code, told = await terminal.closed()
            assert (code, told.strip()) == (1000, "the shell has ended")

    workspace = WorkspaceFactory()
    live(body)
    assert piped[0].is_closed.wait(10)


def test_an_unused_terminal_is_closed(piped: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(consumers, "IDLE_S", 0.3)
    monkeypatch.setattr(consumers, "IDLE_LOOK_S", 0.05)
    workspace = WorkspaceFactory()

    async def body() -> None:
        async with Terminal(workspace, **OPERATOR) as terminal:
            assert "without use" in (await terminal.closed())[1]

    live(body)
    assert piped[0].is_closed.wait(10)


def test_silent_terminals_keep_no_thread_of_the_pool(piped: Any) -> None:
    """More of them than the process's pool has threads, and another one still opens and answers."""
    workspace = WorkspaceFactory()

    async def body() -> None:
        terminals = [Terminal(workspace, **OPERATOR) for _ in range(40)]
        for one in terminals:
            await one.__aenter__()
        await terminals[-1].type("still here\n")
        await terminals[-1].until(b"still here")
        for one in terminals:
            await one.__aexit__()

    live(body)
    assert all(shell.is_closed.wait(10) for shell in piped)


# --- On a real engine


@pytest.fixture
def harness() -> Iterator[DockerHarness]:
    made = DockerHarness()
    dispatch.wire(made.backend())
    yield made
    dispatch.choose_again()
    made.end()


def processes_of(container_id: str) -> list[str]:
    return [row[-1] for row in engine().top(container_id)["Processes"]]


@pytest.mark.docker
def test_a_shell_in_a_container_ends_with_all_it_started(harness: DockerHarness) -> None:
    workspace = WorkspaceFactory()
    started = harness.backend().start(spec(workspace.pk))
    before = processes_of(started.compute_id)

    async def body() -> None:
        async with Terminal(workspace, **OPERATOR) as terminal:
            assert terminal.status == 101
            await terminal.type("echo $((40 + 2))-here\n")
            await terminal.until(b"42-here")
            await terminal.type(
                "sleep 4242 &\n sh -c 'trap \"\" HUP TERM; sleep 4343' &\n echo $((1 + 1))-on\n"
            )
            await terminal.until(b"2-on")
            assert any("4242" in one for one in await sync_to_async(processes_of)(started.compute_id))

    live(body)
    eventually(lambda: processes_of(started.compute_id) == before, within_s=30)


@pytest.mark.docker
def test_a_container_that_does_not_run_has_no_terminal(harness: DockerHarness) -> None:
    workspace = WorkspaceFactory()
    assert refused(workspace, **OPERATOR) == (404, "container not running")
    started = harness.backend().start(spec(workspace.pk))
    engine().stop(started.compute_id, timeout=0)
    assert refused(workspace, **OPERATOR) == (404, "container not running")


@pytest.mark.docker
def test_a_restarted_container_ends_its_terminals(harness: DockerHarness) -> None:
    workspace = WorkspaceFactory()
    harness.backend().start(spec(workspace.pk))

    async def body() -> None:
        async with Terminal(workspace, **OPERATOR) as terminal:
            await terminal.type("echo $((40 + 2))-here\n")
            await terminal.until(b"42-here")
            await asyncio.to_thread(harness.backend().stop, workspace.pk)
            assert (await terminal.closed())[0] == 1000

    live(body)


# --- Diagnose


def diagnosed(workspace: Workspace) -> dict[str, Any]:
    answer = admin().get(f"/workspaces/{workspace.pk}/terminal/diagnose")
    assert answer.status_code == 200
    return dict(answer.json())


def test_the_first_step_that_fails_is_named(piped: Any, monkeypatch: Any) -> None:
    workspace = WorkspaceFactory()
    listed: list[Compute] = []
    monkeypatch.setattr(dispatch._backend(), "list_managed", lambda: listed)
    told = diagnosed(workspace)
    assert (told["ok"], told["remote"], told["first_failure"]) == (False, False, "container-found")
    assert [one["name"] for one in told["steps"]] == ["docker-available", "container-found"]
    for state, failure in ((ComputeState.NOT_RUNNING, "container-running"), (ComputeState.RUNNING, None)):
        listed[:] = [Compute(workspace.pk, "c", 1, state)]
        told = diagnosed(workspace)
        assert (told["ok"], told.get("first_failure")) == (failure is None, failure)
    assert diagnosed(WorkspaceFactory(runtime="external"))["ok"] is False
    assert diagnosed(WorkspaceFactory(instance_id="i-1"))["remote"] is True


@pytest.mark.usefixtures("no_backend")
def test_without_an_engine_the_diagnosis_says_so() -> None:
    assert diagnosed(WorkspaceFactory())["first_failure"] == "docker-available"


# --- Transcript


@pytest.fixture
def stub(settings: Any) -> Iterator[StubAgent]:
    settings.MOLECULE_ENV = "development"  # the policy admits loopback
    with stub_agent() as agent:
        agent.body = b'{"entries": []}'
        yield agent


def transcript(api: Api, workspace: Workspace, **query: Any) -> Any:
    return api.get(f"/workspaces/{workspace.pk}/transcript", **query)


def test_a_transcript_is_the_agents_own_answer(stub: StubAgent) -> None:
    workspace = WorkspaceFactory(delivery_mode="push", url=stub.url)
    secret = inbound_secret(workspace.pk)
    token = mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE)
    answer = transcript(admin(), workspace, since="5", limit="10", file="/etc/passwd")
    assert (answer.status_code, answer.getvalue()) == (200, stub.body)
    transcript(Api(token), workspace)
    assert [one.path for one in stub.seen] == ["/transcript?since=5&limit=10", "/transcript"]
    told = [one.headers["authorization"] for one in stub.seen]
    assert told == [f"Bearer {secret}", f"Bearer {token}"]


def test_a_transcript_that_cannot_be_had(stub: StubAgent) -> None:
    assert transcript(admin(), WorkspaceFactory.build()).status_code == 404
    assert transcript(admin(), WorkspaceFactory(url="")).status_code == 503
    assert transcript(admin(), WorkspaceFactory(url="http://169.254.169.254/")).status_code == 400
    away = WorkspaceFactory(url=f"http://127.0.0.1:{ports.choose(1)[0]}")
    inbound_secret(away.pk)
    answer = transcript(admin(), away)
    assert (answer.status_code, answer.json()) == (502, {"error": "workspace unreachable"})
    huge = WorkspaceFactory(url=stub.url)
    inbound_secret(huge.pk)
    stub.body = b"x" * (1024 * 1024 + 1)
    assert transcript(admin(), huge).status_code == 502
    stub.body = b"x" * (1024 * 1024)
    assert transcript(admin(), huge).getvalue() == stub.body
