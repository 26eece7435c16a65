"""One suite for every store of records: in this database, a plugin process, a plugin of somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from memory.backends.base import Backend
from memory.backends.http import HttpBackend
from memory.backends.local import LocalBackend
from memory_store.contract import Code, Search, StoreError, Write
from tests.memory.stub_plugin import stub_plugin
from tests.memory_store.test_plugin import database_url, up

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
OWN, TEAM = "workspace:one", "team:lead"


@dataclass
class Store:
    backend: Backend
    is_flat: bool = False  # keeps what it is told, and nothing more


@pytest.fixture(params=["in-process", "plugin", "flat"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    match request.param:
        case "in-process":
            yield Store(LocalBackend())
        case "plugin":
            token = {"MEMORY_PLUGIN_TOKEN": "let me in"}
            plugin = up(tmp_path, MEMORY_PLUGIN_DATABASE_URL=database_url(), **token)
            address = str(plugin.client.base_url)
            yield Store(HttpBackend(address, token="let me in", timeout_s=30))
            plugin.process.kill()
            plugin.process.wait(10)
        case _:
            with stub_plugin() as stub:
                yield Store(HttpBackend(stub.url, timeout_s=30), is_flat=True)


def refused(call: Any) -> Code:
    with pytest.raises(StoreError) as caught:
        call()
    return caught.value.code


def texts(store: Store, *namespaces: str, **more: Any) -> list[str]:
    return [one.content for one in store.backend.search(Search(namespaces, **more))]


def test_what_is_committed_is_found_and_forgotten(store: Store) -> None:
    backend = store.backend
    backend.put_namespace(OWN)
    memory_id = backend.commit(OWN, Write("the cats sleep"))
    (one,) = backend.search(Search([OWN], query="cats"))
    assert (one.id, one.namespace, one.content, one.kind, one.source) == (
        memory_id,
        OWN,
        "the cats sleep",
        "fact",
        "agent",
    )
    backend.forget(memory_id, OWN)
    assert texts(store, OWN) == []
    assert refused(lambda: backend.forget(memory_id, OWN)) == Code.NOT_FOUND


def test_namespaces_are_apart(store: Store) -> None:
    backend = store.backend
    backend.put_namespace(OWN)
    backend.put_namespace(TEAM)
    memory_id = backend.commit(OWN, Write("mine"))
    backend.commit(TEAM, Write("ours"))
    assert texts(store, OWN) == ["mine"]
    assert sorted(texts(store, OWN, TEAM)) == ["mine", "ours"]
    assert refused(lambda: backend.forget(memory_id, TEAM)) == Code.NOT_FOUND
    assert texts(store, OWN) == ["mine"]


def test_an_unknown_namespace_takes_nothing(store: Store) -> None:
    assert refused(lambda: store.backend.commit("workspace:none", Write("x"))) == Code.NOT_FOUND
    assert refused(lambda: store.backend.delete_namespace("workspace:none")) == Code.NOT_FOUND


def test_the_same_id_twice_is_one_record(store: Store) -> None:
    store.backend.put_namespace(OWN)
    chosen = uuid4()
    for text in ("first", "second"):
        assert store.backend.commit(OWN, Write(text, id=chosen)) == str(chosen)
    assert texts(store, OWN) == ["second"]


def test_a_namespace_goes_with_its_records_and_can_be_made_twice(store: Store) -> None:
    for _ in range(2):
        store.backend.put_namespace(OWN)
    store.backend.commit(OWN, Write("mine"))
    store.backend.delete_namespace(OWN)
    store.backend.put_namespace(OWN)
    assert texts(store, OWN) == []


def test_what_is_wrong_is_refused(store: Store) -> None:
    backend = store.backend
    for call in (
        lambda: backend.search(Search([])),
        lambda: backend.search(Search([OWN], limit=101)),
        lambda: backend.search(Search([OWN], kinds=["bogus"])),
        lambda: backend.search(Search([f"{OWN}\n"])),
        lambda: backend.commit(OWN, Write(" ")),
        lambda: backend.commit("Nonsense", Write("x")),
    ):
        assert refused(call) == Code.BAD_REQUEST


def test_an_id_of_another_kind_is_not_there(store: Store) -> None:
    store.backend.put_namespace(OWN)
    assert refused(lambda: store.backend.forget("no-uuid", OWN)) in {Code.NOT_FOUND, Code.BAD_REQUEST}


def test_what_is_advertised_is_there(store: Store) -> None:
    """The rest of what a store may offer, by its word."""
    backend, can = store.backend, store.backend.capabilities()
    if store.is_flat:
        assert can == frozenset()
        return
    assert can >= {"fts", "ttl", "pin", "propagation", "list", "get", "update"}
    assert "embedding" not in can
    backend.put_namespace(OWN)
    ends_at = timezone.now() + timedelta(hours=1)
    kept = Write("a", propagation={"tag": "t"}, expires_at=ends_at, created_at=ends_at - timedelta(days=2))
    first = backend.commit(OWN, kept)
    last = backend.commit(OWN, Write("b", pin=True))
    assert texts(store, OWN) == ["b", "a"]
    one = backend.get(first, OWN)
    assert (one.propagation, one.expires_at, one.created_at) == (
        {"tag": "t"},
        ends_at,
        kept.created_at,
    )
    changed = backend.update(first, OWN, {"content": "c", "expires_at": None, "propagation": {"tag": "u"}})
    assert (changed.content, changed.expires_at, changed.propagation) == ("c", None, {"tag": "u"})
    assert backend.get(first, OWN) == changed
    assert {one.id for one in backend.list_records(OWN).items} == {first, last}
    assert [one.name for one in backend.list_namespaces("workspace:").items] == [OWN]
    assert refused(lambda: backend.get(first, TEAM)) == Code.NOT_FOUND
    gone = Write("gone", expires_at=timezone.now() - timedelta(seconds=1))
    backend.commit(OWN, gone)
    assert texts(store, OWN) == ["b", "c"]


def test_pages_come_to_an_end(store: Store) -> None:
    if store.is_flat:
        assert refused(lambda: store.backend.list_records(OWN)) == Code.NOT_FOUND
        return
    store.backend.put_namespace(OWN)
    for number in range(205):
        store.backend.commit(OWN, Write(f"fact {number}"))
    first = store.backend.list_records(OWN)
    second = store.backend.list_records(OWN, first.next_cursor)
    assert (len(first.items), len(second.items), second.next_cursor) == (200, 5, None)
    assert len({one.id for one in (*first.items, *second.items)}) == 205
