"""The client of a memory plugin: what it makes of answers, of silence, and of an outage that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError

from memory.backends.breaker import FAILURES, OPEN_S, Breaker
from memory.backends.http import HttpBackend
from memory_store.contract import Code, Search, StoreError, Write
from stack import ports
from tests.conftest import at_once
from tests.memory.stub_plugin import StubPlugin, stub_plugin

pytestmark = pytest.mark.django_db(transaction=True)
OWN = "workspace:one"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plugin() -> Iterator[StubPlugin]:
    with stub_plugin() as stub:
        yield stub


@pytest.fixture
def client(plugin: StubPlugin, clock: Clock) -> HttpBackend:
    return HttpBackend(plugin.url, timeout_s=20, breaker=Breaker(clock))


def refusal(call: Callable[[], Any]) -> tuple[Code, str]:
    with pytest.raises(StoreError) as caught:
        call()
    return caught.value.code, caught.value.message


def search(client: HttpBackend) -> Any:
    return client.search(Search([OWN]))


@pytest.mark.parametrize(
    ("status", "body", "code", "text"),
    [
        (400, b'{"code":"bad_request","message":"m"}', Code.BAD_REQUEST, "m"),
        (409, b'{"code":"forbidden","message":"m"}', Code.FORBIDDEN, "m"),
        (404, b"gone", Code.NOT_FOUND, "gone"),
        (403, b"", Code.FORBIDDEN, "status 403"),
        (401, b"", Code.INTERNAL, "the plugin does not accept MEMORY_PLUGIN_TOKEN"),
        (422, b"[]", Code.BAD_REQUEST, "[]"),
        (302, b"", Code.BAD_REQUEST, "status 302"),
        (503, b"\xff", Code.INTERNAL, "status 503"),
        (500, b'{"code":"surprise"}', Code.INTERNAL, '{"code":"surprise"}'),
        (500, "\u4e16".encode() * 200, Code.INTERNAL, "\u4e16" * 85),
        (200, b"not json", Code.INTERNAL, "the plugin's answer cannot be read: no JSON"),
        (200, b"[]", Code.INTERNAL, "the plugin's answer cannot be read: no object"),
        (200, b'{"memories":{}}', Code.INTERNAL, "the plugin's answer cannot be read: memories is no list"),
        (200, b'{"memories":[{}]}', Code.INTERNAL, "the plugin's answer cannot be read: id is required"),
    ],
)
def test_every_answer_that_is_none_is_a_typed_error(
    client: HttpBackend, plugin: StubPlugin, status: int, body: bytes, code: Code, text: str
) -> None:
    plugin.fail = (status, body)
    assert refusal(lambda: search(client)) == (code, text)


def test_an_answer_without_end_is_not_read(client: HttpBackend, plugin: StubPlugin) -> None:
    plugin.fail = (200, b" " * (11 * 1024 * 1024))
    assert refusal(lambda: search(client))[1].endswith("too long")


def test_three_failures_open_it_and_a_minute_later_one_call_may_try(
    client: HttpBackend, plugin: StubPlugin, clock: Clock
) -> None:
    plugin.fail = (500, b"")
    for _ in range(FAILURES):
        refusal(lambda: search(client))
    assert refusal(lambda: search(client)) == (Code.UNAVAILABLE, "breaker open")
    assert plugin.asked("POST", "/v1/search") == FAILURES
    clock.now = OPEN_S
    refusal(lambda: search(client))
    assert refusal(lambda: search(client)) == (Code.UNAVAILABLE, "breaker open")
    assert plugin.asked("POST", "/v1/search") == FAILURES + 1
    plugin.fail, clock.now = None, 2 * OPEN_S
    assert search(client) == []
    assert not client.breaker.is_open
    plugin.fail = (500, b"")
    refusal(lambda: search(client))
    assert refusal(lambda: search(client))[1] != "breaker open"


def test_of_many_threads_one_tries(client: HttpBackend, plugin: StubPlugin, clock: Clock) -> None:
    plugin.fail = (500, b"")
    for _ in range(FAILURES):
        refusal(lambda: search(client))
    clock.now, plugin.delay_s = OPEN_S, 0.3
    outcomes = at_once(*[lambda: search(client)] * 8)
    assert sorted(one.message == "breaker open" for one in outcomes) == [False, *[True] * 7]
    assert plugin.asked("POST", "/v1/search") == FAILURES + 1


def test_what_the_caller_did_wrong_opens_nothing(client: HttpBackend, plugin: StubPlugin) -> None:
    for _ in range(FAILURES + 1):
        assert refusal(lambda: client.forget("x", OWN))[0] == Code.NOT_FOUND
        assert refusal(lambda: client.forget("", OWN))[0] == Code.BAD_REQUEST
        assert refusal(lambda: client.commit(OWN, Write(" ")))[0] == Code.BAD_REQUEST
    assert not client.breaker.is_open
    assert len(plugin.calls) == FAILURES + 1


def test_nobody_there_and_nobody_answering_are_unavailable_in_time(plugin: StubPlugin) -> None:
    nobody = HttpBackend(f"http://127.0.0.1:{ports.choose(1)[0]}", timeout_s=5)
    assert refusal(lambda: search(nobody))[0] == Code.UNAVAILABLE
    plugin.delay_s = 60
    silent = HttpBackend(plugin.url, timeout_s=0.1)
    began = time.monotonic()
    assert refusal(lambda: search(silent))[0] == Code.UNAVAILABLE
    assert time.monotonic() - began < 30


def test_a_plugin_that_comes_up_later_is_known_without_a_restart(plugin: StubPlugin, clock: Clock) -> None:
    client = HttpBackend(plugin.url, timeout_s=20, breaker=Breaker(clock))
    plugin.fail = (503, b"")
    assert client.capabilities() == frozenset()
    plugin.fail, plugin.capabilities = None, ["fts", "fancy"]
    assert client.capabilities() == {"fts", "fancy"}
    plugin.capabilities = ["fts", "get"]
    assert client.capabilities() == {"fts", "fancy"}  # known for a minute
    plugin.fail = (500, b"")
    refusal(lambda: search(client))
    plugin.fail = None
    search(client)
    assert client.capabilities() == {"fts", "get"}  # asked again after the outage


def test_another_version_is_not_spoken(client: HttpBackend, plugin: StubPlugin) -> None:
    plugin.version, plugin.capabilities = "2.0.0", ["fts"]
    assert client.capabilities() == frozenset()


def test_a_plugin_is_not_waited_for_inside_a_transaction(client: HttpBackend, plugin: StubPlugin) -> None:
    with pytest.raises(TransactionManagementError), transaction.atomic():
        connection.ensure_connection()
        search(client)
    assert plugin.calls == []
