"""`GET /workspaces/:id/events/stream`: who is let in, which events arrive, how it ends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.db import connection

from access.models import TokenKind
from access.services import mint_token, revoke_tokens
from activity import streams
from activity.events import EventType, broadcast
from activity.hub import STREAM_QUEUE_FRAMES, hub
from config.asgi import application
from tests.clients import admin
from tests.conftest import ADMIN_TOKEN
from tests.outages import database_away, valkey_away
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


class Stream:
    """One client of the stream."""

    def __init__(self, workspace_id: Any, token: str | None = ADMIN_TOKEN, **headers: str) -> None:
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        if token:
            given.append((b"authorization", f"Bearer {token}".encode()))
        path = f"/workspaces/{workspace_id}/events/stream"
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"testserver"), *given],
            "client": ("127.0.0.1", 50_000),
            "server": ("testserver", 80),
            "http_version": "1.1",
        }
        self._pipe = ApplicationCommunicator(application, scope)
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Stream:
        await self._pipe.send_input({"type": "http.request"})
        start = await self._pipe.receive_output(timeout=5)
        self.status = start["status"]
        self.headers = {key.decode().lower(): value.decode() for key, value in start["headers"]}
        return self

    async def __aexit__(self, *error: Any) -> None:
        if not self._pipe.future.done():
            await self._pipe.send_input({"type": "http.disconnect"})
        await self._pipe.wait(timeout=5)

    async def chunk(self) -> bytes:
        message = await self._pipe.receive_output(timeout=5)
        return bytes(message.get("body", b""))

    async def event(self) -> dict[str, Any]:
        chunk = (await self.chunk()).decode()
        assert chunk.startswith("data: ")
        assert chunk.endswith("\n\n")
        found: dict[str, Any] = json.loads(chunk[6:])
        return found

    async def is_over(self) -> bool:
        while True:
            message = await self._pipe.receive_output(timeout=5)
            if not message.get("more_body"):
                return True


def live(body: Callable[[], Awaitable[None]]) -> None:
    async_to_sync(body)()


async def emit(event: EventType, workspace_id: UUID, payload: dict[str, Any] | None = None) -> None:
    await sync_to_async(broadcast)(event, workspace_id, payload or {})


def token_of(workspace: Workspace) -> str:
    return mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE)


def test_the_first_bytes_are_a_ping_and_nothing_in_between_keeps_them() -> None:
    workspace = WorkspaceFactory()
    token = token_of(workspace)

    async def body() -> None:
        async with Stream(workspace.pk, token, origin="http://localhost:3000") as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["cache-control"] == "no-cache"
            assert stream.headers["x-accel-buffering"] == "no"
            assert stream.headers["x-content-type-options"] == "nosniff"
            assert stream.headers["access-control-allow-origin"] == "http://localhost:3000"
            assert await stream.chunk() == b": ping\n\n"

    live(body)


def test_events_of_the_workspace_alone_arrive_as_type_timestamp_and_data() -> None:
    workspace, sibling = WorkspaceFactory(), WorkspaceFactory()

    async def body() -> None:
        async with Stream(workspace.pk) as stream:
            await stream.chunk()
            await emit(EventType.WORKSPACE_ONLINE, sibling.pk)
            for number in range(20):
                await emit(EventType.WORKSPACE_HEARTBEAT, workspace.pk, {"number": number})
            events = [await stream.event() for _ in range(20)]
            assert [event["data"]["number"] for event in events] == list(range(20))
            assert set(events[0]) == {"type", "timestamp", "data"}
            assert events[0]["type"] == "WORKSPACE_HEARTBEAT"
            assert isinstance(events[0]["timestamp"], int)
            assert 0 <= events[-1]["timestamp"] - events[0]["timestamp"] < 10_000

    live(body)


def test_an_idle_stream_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.05)
    workspace = WorkspaceFactory()

    async def body() -> None:
        async with Stream(workspace.pk) as stream:
            assert [await stream.chunk() for _ in range(3)] == [b": ping\n\n"] * 3
            await emit(EventType.TASK_UPDATED, workspace.pk)
            while (chunk := await stream.chunk()) == b": ping\n\n":
                pass
            assert chunk.startswith(b"data: ")

    live(body)


# --- Who is let in


def refusal(workspace_id: Any, token: str | None) -> tuple[int, Any]:
    async def body() -> tuple[int, Any]:
        async with Stream(workspace_id, token) as stream:
            return stream.status, json.loads(await stream.chunk())

    return async_to_sync(body)()


def test_a_refusal_is_an_answer_in_the_products_shape() -> None:
    workspace = WorkspaceFactory()
    assert refusal(workspace.pk, None) == (401, {"error": "missing workspace auth token"})
    assert refusal(workspace.pk, "junk")[0] == 401
    assert refusal(workspace.pk, token_of(WorkspaceFactory())) == (
        401,
        {"error": "invalid workspace auth token"},
    )
    assert refusal(uuid4(), ADMIN_TOKEN) == (404, {"error": "workspace not found"})
    assert refusal(WorkspaceFactory(status=Status.REMOVED).pk, ADMIN_TOKEN)[0] == 404
    assert refusal("global", ADMIN_TOKEN) == (400, {"error": "invalid workspace ID"})


def test_an_unreachable_database_is_a_503() -> None:
    workspace = WorkspaceFactory()
    with database_away():
        status, answer = refusal(workspace.pk, ADMIN_TOKEN)
    assert (status, answer["code"]) == (503, "platform_unavailable")


def test_the_pool_of_short_requests_serves_no_stream() -> None:
    answer = admin().get(f"/workspaces/{WorkspaceFactory().pk}/events/stream")
    assert answer.status_code == 503


# --- How it ends, and what it costs


def test_a_client_that_left_is_forgotten() -> None:
    workspace = WorkspaceFactory()

    async def body() -> None:
        async with Stream(workspace.pk) as stream:
            await stream.chunk()
            assert len(hub()._clients) == 1
        assert len(hub()._clients) == 0

    live(body)


@pytest.mark.parametrize("end", ["revoked", "removed"])
def test_a_credential_that_no_longer_opens_it_ends_it(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(streams, "RECHECK_S", 0.05)
    workspace = WorkspaceFactory()
    token = token_of(workspace)

    async def body() -> None:
        async with Stream(workspace.pk, token) as stream:
            await stream.chunk()
            if end == "revoked":
                await sync_to_async(revoke_tokens)(workspace_id=workspace.pk)
            else:
                await Workspace.objects.filter(pk=workspace.pk).aupdate(status=Status.REMOVED)
            assert await stream.is_over()

    live(body)


def test_a_client_that_reads_too_slowly_loses_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = WorkspaceFactory()

    async def body() -> None:
        async with Stream(workspace.pk) as stream:
            await stream.chunk()
            (client,) = hub()._clients
            assert client.queue.maxsize == STREAM_QUEUE_FRAMES == 64
            client.close(1013)
            assert await stream.is_over()

    live(body)


def test_a_client_that_does_not_read_at_all_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STUCK_S", 0.05)
    workspace = WorkspaceFactory()

    async def body() -> None:
        stuck = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0)
            if not asked:
                asked.append(1)
                return {"type": "http.request"}
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            if message.get("body", b"").startswith(b"data"):
                stuck.set()
                await asyncio.sleep(3600)

        asked: list[int] = []
        scope = Stream(workspace.pk)._pipe.scope
        serving = asyncio.create_task(application(scope, receive, send))  # type: ignore[arg-type]
        while not hub()._clients:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(hub().subscribed.wait(), 5)
        await emit(EventType.TASK_UPDATED, workspace.pk)
        await asyncio.wait_for(stuck.wait(), 5)
        for _ in range(STREAM_QUEUE_FRAMES + 2):
            await emit(EventType.TASK_UPDATED, workspace.pk)
        await asyncio.wait_for(serving, 5)
        assert not hub()._clients

    live(body)


def test_the_first_ping_does_not_wait_for_an_absent_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SUBSCRIBE_S", 0.1)
    workspace = WorkspaceFactory()

    async def body() -> None:
        with valkey_away():
            async with Stream(workspace.pk) as stream:
                assert await stream.chunk() == b": ping\n\n"

    live(body)


def test_idle_streams_hold_no_threads_and_no_connections() -> None:
    workspace = WorkspaceFactory()
    connection.close()  # the test's own

    async def body() -> None:
        before = threading.active_count()
        streams_open = [Stream(workspace.pk) for _ in range(20)]
        for stream in streams_open:
            await stream.__aenter__()
            await stream.chunk()
        while threading.active_count() > before + 2:
            await asyncio.sleep(0.02)  # threads that were given back end in their own time
        pool = connection.pool.get_stats()
        assert pool["pool_available"] == pool["pool_size"]
        for stream in streams_open:
            await stream.__aexit__()

    live(body)
