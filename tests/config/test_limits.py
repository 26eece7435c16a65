"""How large a request may be, on both server interfaces."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory

from config import limits
from config.asgi import application
from config.limits import ALL_HEADERS_BYTES, HEADER_BYTES, BoundedBody, LimitBody, body_limit
from tests.clients import admin, anonymous
from tests.conftest import ADMIN_TOKEN

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/workspaces", MIB),
        ("/webhooks/slack", MIB),
        ("/workspaces/x/secrets", MIB),
        ("/workspaces/x/memoryx", MIB),
        ("/workspaces/x/a2a", 16 * MIB),
        ("/workspaces/x/a2a/", 16 * MIB),
        ("/workspaces/x/a2ab", MIB),
        ("/workspaces/x/memory", 4 * MIB),
        ("/workspaces/x/memories", 4 * MIB),
        ("/workspaces/x/memories/7", 4 * MIB),
        ("/workspaces/x/delegate", 4 * MIB),
        ("/workspaces/x/delegations/7/update", 4 * MIB),
        ("/workspaces/x/mcp", 4 * MIB),
        ("/org/import", 8 * MIB),
        ("/admin/memories/import", 64 * MIB),
        ("/workspaces/x/chat/uploads", None),
        ("/workspaces/x/files/a/b", 32 * MIB),
        ("/templates/import", 32 * MIB),
        ("/bundles/import", 32 * MIB),
    ],
)
def test_the_limit_of_each_route(path: str, limit: int | None) -> None:
    assert body_limit(path) == limit


def test_a_larger_default_never_lowers_a_route(settings: Any) -> None:
    settings.MAX_JSON_BODY_BYTES = 10 * MIB
    assert body_limit("/workspaces") == 10 * MIB
    assert body_limit("/workspaces/x/memory") == 10 * MIB
    assert body_limit("/workspaces/x/a2a") == 16 * MIB


@pytest.mark.django_db
def test_2_mib_of_json_is_a_413(settings: Any) -> None:
    answer = admin().post("/workspaces", {"name": "x" * 2 * MIB})
    assert (answer.status_code, answer.json()) == (413, {"error": "request body too large"})


def test_a_message_too_large_names_its_limit() -> None:
    answer = Client().generic("POST", "/workspaces/x/a2a", b" " * (16 * MIB + 1))
    assert (answer.status_code, answer.json()) == (
        413,
        {
            "error": "request body exceeds 16777216 byte limit",
            "truncated": True,
            "max_bytes": 16_777_216,
        },
    )


def chunked(path: str, body: bytes) -> HttpRequest:
    request = RequestFactory().post(path, HTTP_TRANSFER_ENCODING="chunked")
    del request.META["CONTENT_LENGTH"]
    request.environ["wsgi.input"] = BytesIO(body)
    return request


def test_a_route_that_counts_itself_is_given_the_stream_untouched() -> None:
    request = chunked("/workspaces/x/chat/uploads", b" " * 2 * MIB)
    assert LimitBody(lambda given: HttpResponse())(request).status_code == 200
    assert request.environ["wsgi.input"].tell() == 0


@pytest.mark.parametrize("status", [401, 404, 413])
def test_what_a_refusal_left_unread_of_a_stream_is_taken(status: int) -> None:
    request = chunked("/workspaces/x/chat/uploads", b" " * 2 * MIB)
    request._read_started = True
    assert LimitBody(lambda given: HttpResponse(status=status))(request).status_code == status
    assert request.environ["wsgi.input"].tell() == 2 * MIB


def test_a_stream_refused_by_its_length_is_not_waited_for() -> None:
    request = chunked("/workspaces/x/chat/uploads", b" ")
    LimitBody(lambda given: HttpResponse(status=413))(request)
    assert request.environ["wsgi.input"].tell() == 0


# --- Headers


@pytest.mark.parametrize("path", ["/health", "/workspaces", "/registry/heartbeat"])
def test_a_header_too_large_is_a_431(path: str) -> None:
    answer = Client(HTTP_X_LONG="x" * (HEADER_BYTES + 1)).get(path)
    assert (answer.status_code, answer.json()) == (431, {"error": "request header fields too large"})
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_many_headers_too_large_together_are_a_431() -> None:
    each = HEADER_BYTES - 100
    few = {f"HTTP_X_{number}": "x" * each for number in range(ALL_HEADERS_BYTES // HEADER_BYTES)}
    assert Client(**few).get("/health").status_code == 200
    assert Client(**few, HTTP_X_LAST="x" * each).get("/health").status_code == 431


@pytest.mark.django_db
def test_a_bearer_of_more_than_512_characters_is_invalid() -> None:
    for token in ("x" * 513, ADMIN_TOKEN + " " + "x" * 600):
        answer = Client(HTTP_AUTHORIZATION=f"Bearer {token}").get("/workspaces")
        assert answer.status_code == 401
    assert anonymous().get("/workspaces").status_code == 401


# --- ASGI


def scope(path: str, **headers: str) -> dict[str, Any]:
    given = {"host": "testserver", "origin": "http://localhost:3000", **headers}
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 5000),
    }


def sent(path: str, chunks: int, **headers: str) -> dict[str, Any]:
    """The first message of the answer to `chunks` MiB that come in pieces."""

    async def talk() -> dict[str, Any]:
        pipe = ApplicationCommunicator(application, scope(path, **headers))
        for number in range(chunks):
            piece = {"type": "http.request", "body": b" " * MIB, "more_body": number + 1 < chunks}
            await pipe.send_input(piece)
        answer: dict[str, Any] = await pipe.receive_output(timeout=10)
        await pipe.receive_output(timeout=5)
        await pipe.send_input({"type": "http.disconnect"})
        await pipe.wait(timeout=5)
        return answer

    return async_to_sync(talk)()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("headers", [{}, {"transfer-encoding": "chunked"}, {"content-length": str(3 * MIB)}])
def test_a_streamed_body_too_large_is_a_413_that_a_browser_can_read(headers: dict[str, str]) -> None:
    answer = sent("/workspaces", 3, **headers)
    assert answer["status"] == 413
    names = {name.decode().lower() for name, _ in answer["headers"]}
    assert {"access-control-allow-origin", "x-content-type-options"} <= names


def test_no_more_is_taken_in_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            taken.append(len(message.get("body", b"")))
            if not message.get("more_body"):
                return

    async def talk() -> None:
        feed: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(5):
            feed.put_nowait({"type": "http.request", "body": b" " * MIB, "more_body": True})
        monkeypatch.setattr(limits, "READ_AWAY_S", 0.1)  # the client stops in the middle of its body
        await BoundedBody(inner)(scope("/workspaces"), feed.get, None)  # type: ignore[arg-type]

    asyncio.run(talk())
    assert sum(taken) == MIB
