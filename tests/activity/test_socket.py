"""`/ws`: who is let in, and which frames reach whom."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.utils import timezone

from access import sockets
from access.models import TokenKind
from access.services import mint_token, revoke_tokens
from activity.events import EventType, Frame, broadcast, publish, record
from activity.hub import QUEUE_FRAMES, hub
from config.asgi import application
from tests.conftest import ADMIN_TOKEN
from tests.outages import database_away
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]

Body = Callable[[], Awaitable[None]]
SUBPROTOCOLS = ["molecule-ws", f"molecule-auth.{ADMIN_TOKEN.encode().hex()}"]


class Socket:
    """One client of /ws."""

    def __init__(self, *offered: str, address: str = "127.0.0.1", **headers: Any) -> None:
        given = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
        scope = {
            "type": "websocket",
            "path": "/ws",
            "query_string": b"",
            "headers": [(b"host", b"testserver"), *given],
            "subprotocols": list(offered),
            "client": (address, 50_000),
        }
        self._pipe = ApplicationCommunicator(application, scope)
        self.accepted = False
        self.subprotocol: str | None = None

    async def __aenter__(self) -> Socket:
        await self._pipe.send_input({"type": "websocket.connect"})
        answer = await self._pipe.receive_output(timeout=5)
        self.accepted = answer["type"] == "websocket.accept"
        self.subprotocol = answer.get("subprotocol")
        if self.accepted:
            await asyncio.wait_for(hub().subscribed.wait(), timeout=5)
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self.accepted:
            await self._pipe.send_input({"type": "websocket.disconnect", "code": 1000})
            await self._pipe.wait(timeout=5)

    async def frame(self) -> dict[str, Any]:
        message = await self._pipe.receive_output(timeout=5)
        assert message["type"] == "websocket.send"
        found: dict[str, Any] = json.loads(message["text"])
        return found

    async def close_code(self) -> int:
        while (message := await self._pipe.receive_output(timeout=5))["type"] != "websocket.close":
            pass
        return int(message["code"])

    async def say(self, text: str) -> None:
        await self._pipe.send_input({"type": "websocket.receive", "text": text})


def live(body: Body) -> None:
    async_to_sync(body)()


def admission(*offered: str, **headers: Any) -> tuple[bool, Any]:
    async def body() -> tuple[bool, Any]:
        async with Socket(*offered, **headers) as socket:
            return socket.accepted, socket.subprotocol

    return async_to_sync(body)()


def bearer(token: str) -> str:
    return f"Bearer {token}"


def token_of(workspace: Workspace) -> str:
    return mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE)


def agent_headers(workspace: Workspace) -> dict[str, Any]:
    return {"authorization": bearer(token_of(workspace)), "x_workspace_id": workspace.pk}


async def emit(event: EventType, workspace_id: UUID, payload: dict[str, Any] | None = None) -> None:
    await sync_to_async(broadcast)(event, workspace_id, payload or {})


# --- Who is let in


def test_nobody_is_let_in_without_a_credential() -> None:
    assert not admission()[0]
    assert not admission(origin="http://localhost:3000")[0]
    assert not admission("molecule-ws")[0]


def test_an_operator_is_let_in() -> None:
    assert admission(authorization=bearer(ADMIN_TOKEN)) == (True, None)


@pytest.mark.parametrize("authorization", ["Bearer junk", "Basic abc", "Bearer "])
def test_a_wrong_credential_is_refused(authorization: str) -> None:
    assert not admission(authorization=authorization)[0]


def test_a_browser_offers_its_credential_as_a_subprotocol_and_never_sees_it_again() -> None:
    assert admission(*SUBPROTOCOLS) == (True, "molecule-ws")
    assert admission(*reversed(SUBPROTOCOLS)) == (True, "molecule-ws")
    assert admission(SUBPROTOCOLS[1]) == (True, None)


@pytest.mark.parametrize(
    "credential",
    ["abc", "zz", "ff", "6a756e6b", "", "61" * 4097],
    ids=["odd", "no hex", "no text", "wrong", "empty", "too long"],
)
def test_a_damaged_subprotocol_credential_is_refused(credential: str) -> None:
    assert not admission("molecule-ws", f"molecule-auth.{credential}")[0]


def test_two_credentials_are_refused() -> None:
    assert not admission(*SUBPROTOCOLS, "molecule-auth.00")[0]
    assert not admission(*SUBPROTOCOLS, authorization=bearer(ADMIN_TOKEN))[0]


def test_a_workspace_token_does_not_open_the_canvas_stream() -> None:
    assert not admission(authorization=bearer(token_of(WorkspaceFactory())))[0]


def test_a_workspace_opens_its_own_stream_only() -> None:
    workspace, other = WorkspaceFactory(), WorkspaceFactory()
    headers = agent_headers(workspace)
    assert admission(**headers)[0]
    assert not admission(**{**headers, "x_workspace_id": other.pk})[0]
    assert not admission(**{**headers, "x_workspace_id": "global"})[0]
    assert not admission(x_workspace_id=workspace.pk)[0]
    assert not admission(x_workspace_id=workspace.pk, authorization=bearer(ADMIN_TOKEN))[0]


def test_the_token_of_a_removed_workspace_opens_nothing() -> None:
    workspace = WorkspaceFactory()
    headers = agent_headers(workspace)
    Workspace.objects.filter(pk=workspace.pk).update(status=Status.REMOVED)
    assert not admission(**headers)[0]


@pytest.mark.parametrize(
    ("origin", "is_ok"),
    [
        ("http://testserver", True),
        ("https://testserver", True),
        ("http://localhost:3000", True),
        ("http://localhost:3999", False),
        ("https://evil.example", False),
        ("http://testserver.evil.example", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_the_origin_is_our_own_or_listed(origin: str, is_ok: bool) -> None:
    assert admission(origin=origin, authorization=bearer(ADMIN_TOKEN))[0] is is_ok


def test_an_empty_list_of_origins_allows_none(settings: Any) -> None:
    settings.CORS_ORIGINS = []
    assert not admission(origin="http://localhost:3000", authorization=bearer(ADMIN_TOKEN))[0]


def test_an_anonymous_canvas_needs_its_switch_and_an_allowed_origin(settings: Any) -> None:
    settings.WS_ANONYMOUS_CANVAS = True
    assert admission(origin="http://localhost:3000")[0]
    assert not admission()[0]
    assert not admission(origin="https://evil.example")[0]
    assert not admission(origin="http://localhost:3000", authorization="Bearer junk")[0]


def test_the_hatch_lets_the_machine_in_and_nobody_else(settings: Any) -> None:
    settings.ADMIN_TOKEN, settings.MOLECULE_DEV_OPEN, settings.MOLECULE_ENV = "", True, "development"
    workspace = WorkspaceFactory()
    assert admission()[0]
    assert admission(x_workspace_id=workspace.pk)[0]
    assert not admission(authorization="Bearer junk")[0]
    assert not admission(address="198.51.100.7")[0]
    assert not admission(address="198.51.100.7", origin="http://localhost:3000")[0]


def test_an_unreachable_database_lets_nobody_in() -> None:
    headers = agent_headers(WorkspaceFactory())
    with database_away():
        assert not admission(**headers)[0]


# --- Who sees what


def test_a_canvas_sees_everything_as_envelopes_of_four_keys() -> None:
    workspace = WorkspaceFactory()

    async def body() -> None:
        async with Socket(authorization=bearer(ADMIN_TOKEN)) as canvas:
            for event in EventType:
                await emit(event, workspace.pk, {"event": event})
            for event in EventType:
                frame = await canvas.frame()
                assert set(frame) == {"event", "workspace_id", "timestamp", "payload"}
                assert (frame["event"], frame["workspace_id"]) == (event, str(workspace.pk))
                assert frame["payload"] == {"event": event}

    live(body)


def test_rest_knows_what_a_frame_tells_when_it_arrives() -> None:
    workspace = WorkspaceFactory()

    async def body() -> None:
        async with Socket(authorization=bearer(ADMIN_TOKEN)) as canvas:
            await sync_to_async(record)(EventType.WORKSPACE_ONLINE, workspace.pk, {})
            frame = await canvas.frame()
            from activity.models import StructureEvent

            row = await StructureEvent.objects.aget()
            assert frame["timestamp"] == row.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    live(body)


def test_a_sibling_sees_the_life_of_a_workspace_but_not_its_conversation() -> None:
    boss = WorkspaceFactory()
    workspace, sibling = WorkspaceFactory(parent=boss), WorkspaceFactory(parent=boss)
    headers = agent_headers(sibling)

    async def body() -> None:
        async with Socket(**headers) as socket:
            for event in (EventType.ACTIVITY_LOGGED, EventType.AGENT_MESSAGE, EventType.WORKSPACE_HEARTBEAT):
                await emit(event, workspace.pk)
            await emit(EventType.WORKSPACE_ONLINE, workspace.pk)
            assert (await socket.frame())["event"] == "WORKSPACE_ONLINE"

    live(body)


def test_a_workspace_sees_everything_about_itself() -> None:
    workspace = WorkspaceFactory()
    headers = agent_headers(workspace)

    async def body() -> None:
        async with Socket(**headers) as socket:
            for event in EventType:
                await emit(event, workspace.pk)
            assert [(await socket.frame())["event"] for _ in EventType] == list(EventType)

    live(body)


def test_a_nephew_sees_neither_life_nor_conversation() -> None:
    boss = WorkspaceFactory()
    uncle, parent = WorkspaceFactory(parent=boss), WorkspaceFactory(parent=boss)
    nephew = WorkspaceFactory(parent=parent)
    headers = agent_headers(nephew)

    async def body() -> None:
        async with Socket(**headers) as socket:
            await emit(EventType.WORKSPACE_ONLINE, uncle.pk)
            await emit(EventType.ACTIVITY_LOGGED, uncle.pk)
            await emit(EventType.TASK_UPDATED, nephew.pk)
            assert (await socket.frame())["event"] == "TASK_UPDATED"

    live(body)


def test_a_move_is_judged_by_the_new_place() -> None:
    boss = WorkspaceFactory()
    workspace, sibling = WorkspaceFactory(parent=boss), WorkspaceFactory(parent=boss)
    away = WorkspaceFactory(parent=WorkspaceFactory())
    headers = agent_headers(sibling)

    async def body() -> None:
        async with Socket(**headers) as socket:
            await emit(EventType.WORKSPACE_ONLINE, workspace.pk)
            assert (await socket.frame())["event"] == "WORKSPACE_ONLINE"
            await Workspace.objects.filter(pk=workspace.pk).aupdate(parent=away.pk)
            await emit(EventType.WORKSPACE_MOVED, workspace.pk)
            await emit(EventType.WORKSPACE_ONLINE, workspace.pk)
            await emit(EventType.TASK_UPDATED, sibling.pk)
            assert (await socket.frame())["event"] == "TASK_UPDATED"

    live(body)


def test_a_sibling_is_told_of_a_removal() -> None:
    workspace, sibling = WorkspaceFactory(), WorkspaceFactory()
    headers = agent_headers(sibling)

    async def body() -> None:
        async with Socket(**headers) as socket:
            await Workspace.objects.filter(pk=workspace.pk).aupdate(status=Status.REMOVED)
            await emit(EventType.WORKSPACE_REMOVED, workspace.pk)
            await emit(EventType.TASK_UPDATED, sibling.pk)
            assert (await socket.frame())["event"] == "WORKSPACE_REMOVED"

    live(body)


def test_a_database_that_cannot_be_asked_about_a_peer_does_not_silence_the_socket() -> None:
    workspace, sibling = WorkspaceFactory(), WorkspaceFactory()
    headers = agent_headers(sibling)

    def send(event: EventType, workspace_id: UUID) -> None:
        publish(Frame(event, workspace_id, timezone.now(), {}))

    async def body() -> None:
        async with Socket(**headers) as socket:
            outage = database_away()
            await sync_to_async(outage.__enter__)()
            try:
                await sync_to_async(send)(EventType.WORKSPACE_OFFLINE, workspace.pk)
                await sync_to_async(send)(EventType.TASK_UPDATED, sibling.pk)
                assert (await socket.frame())["event"] == "TASK_UPDATED"
            finally:
                await sync_to_async(outage.__exit__)(None, None, None)
            await sync_to_async(send)(EventType.WORKSPACE_ONLINE, workspace.pk)
            assert (await socket.frame())["event"] == "WORKSPACE_ONLINE"

    live(body)


# --- How it ends


def test_what_a_client_says_is_ignored() -> None:
    async def body() -> None:
        async with Socket(authorization=bearer(ADMIN_TOKEN)) as canvas:
            await canvas.say('{"event":"WORKSPACE_REMOVED"}')
            await emit(EventType.TASK_UPDATED, WorkspaceFactory.build().pk)
            assert (await canvas.frame())["event"] == "TASK_UPDATED"

    live(body)


def test_a_socket_that_is_given_up_is_closed_with_its_code() -> None:
    async def body() -> None:
        async with Socket(authorization=bearer(ADMIN_TOKEN)) as canvas:
            (client,) = hub()._clients
            client.close(1013)
            assert await canvas.close_code() == 1013

    live(body)


def test_a_socket_that_leaves_is_forgotten() -> None:
    async def body() -> None:
        async with Socket(authorization=bearer(ADMIN_TOKEN)):
            assert len(hub()._clients) == 1
        assert len(hub()._clients) == 0

    live(body)


def test_a_revoked_token_loses_its_socket(monkeypatch: Any) -> None:
    monkeypatch.setattr(sockets, "RECHECK_S", 0.05)
    workspace = WorkspaceFactory()
    headers = agent_headers(workspace)

    async def body() -> None:
        async with Socket(**headers) as socket:
            began = time.monotonic()
            await sync_to_async(revoke_tokens)(workspace_id=workspace.pk)
            assert await socket.close_code() == 4401
            assert time.monotonic() - began < 5

    live(body)


def test_a_burst_within_the_buffer_reaches_a_reading_client_whole() -> None:
    workspace = WorkspaceFactory()

    async def body() -> None:
        async with Socket(authorization=bearer(ADMIN_TOKEN)) as canvas:
            for number in range(QUEUE_FRAMES):
                await emit(EventType.TASK_UPDATED, workspace.pk, {"number": number})
            seen = [(await canvas.frame())["payload"]["number"] for _ in range(QUEUE_FRAMES)]
            assert seen == list(range(QUEUE_FRAMES))

    live(body)
