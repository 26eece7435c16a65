"""The store of namespaces and records, on the real database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from memory_store import services as store
from memory_store.contract import (
    Code,
    Memory,
    Search,
    StoreError,
    Write,
    memory_from,
    memory_json,
    namespace_from,
    namespace_json,
    search_from,
    search_json,
    write_from,
    write_json,
)
from memory_store.models import MemoryNamespace, MemoryRecord
from tests.conftest import at_once

pytestmark = pytest.mark.django_db(transaction=True)
HOME, AWAY = "workspace:a", "team:b"


@pytest.fixture
def home() -> str:
    store.put_namespace(HOME, "workspace")
    return HOME


def contents(found: list[Memory]) -> list[str]:
    return [one.content for one in found]


def refusal(verb: Any, *given: Any, **more: Any) -> Code:
    with pytest.raises(StoreError) as refused:
        verb(*given, **more)
    return refused.value.code


def test_a_namespace_keeps_what_a_repeated_put_omits() -> None:
    later = datetime(2030, 1, 1, tzinfo=UTC)
    first = store.put_namespace(HOME, "workspace", metadata={"a": 1})
    store.patch_namespace(HOME, expires_at=later)
    again = store.put_namespace(HOME, "workspace")
    assert (again.created_at, again.expires_at, again.metadata) == (first.created_at, later, {"a": 1})
    both = store.patch_namespace(HOME, expires_at=None, metadata={"b": 2})
    assert (both.expires_at, both.metadata) == (None, {"b": 2})
    cleared = store.put_namespace(HOME, "workspace", metadata=None)
    assert cleared.metadata is None
    assert MemoryNamespace.objects.filter(metadata__isnull=True).exists()  # SQL's NULL, not JSON's


def test_what_is_no_namespace_is_refused() -> None:
    for name in ("x", "workspace:x\n", "workspace:", "Team:x", "team:ä", "team:" + 252 * "x"):
        assert refusal(store.put_namespace, name, "team") == Code.BAD_REQUEST, name
    assert refusal(store.put_namespace, "team:x", "org") == Code.BAD_REQUEST
    assert refusal(store.put_namespace, "custom:x", "kind") == Code.BAD_REQUEST
    assert refusal(store.patch_namespace, "team:x") == Code.BAD_REQUEST
    assert refusal(store.patch_namespace, "team:x", metadata={}) == Code.NOT_FOUND
    assert refusal(store.delete_namespace, "team:x") == Code.NOT_FOUND


def test_a_namespace_takes_its_records_with_it(home: str) -> None:
    store.commit(home, Write("one"))
    store.delete_namespace(home)
    assert not MemoryRecord.objects.exists()
    assert refusal(store.commit, home, Write("two")) == Code.NOT_FOUND


def test_the_database_itself_refuses_a_record_without_a_namespace(home: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        MemoryRecord.objects.create(
            namespace_id="team:none", content="x", kind="fact", source="agent", content_sha256="0"
        )


def test_an_id_is_written_once_and_stays_where_it_is(home: str) -> None:
    store.put_namespace(AWAY, "team")
    one = uuid4()
    assert store.commit(home, Write("first", id=one)) == store.commit(home, Write("second", id=one)) == one
    assert refusal(store.commit, AWAY, Write("third", id=one)) == Code.FORBIDDEN
    (row,) = MemoryRecord.objects.all()
    assert (row.content, row.namespace_id) == ("second", home)


def test_commits_of_one_id_at_once_are_one_record(home: str) -> None:
    one = uuid4()
    assert set(at_once(*[lambda: store.commit(home, Write("same", id=one))] * 8)) == {one}
    assert MemoryRecord.objects.count() == 1


def test_what_is_no_record_is_refused(home: str) -> None:
    good = Write("text")
    for changes in (
        {"content": " \n"},
        {"content": "a\x00b"},
        {"content": "a\ud800b"},
        {"kind": "x"},
        {"source": "x"},
    ):
        assert refusal(store.commit, home, replace(good, **changes)) == Code.BAD_REQUEST, changes  # type: ignore[arg-type]


def test_the_pinned_and_the_newest_come_first_without_a_question(home: str) -> None:
    for day, (text, pin) in enumerate((("old", False), ("kept", True), ("new", False)), 1):
        store.commit(home, Write(text, pin=pin, created_at=datetime(2026, 1, day, tzinfo=UTC)))
    found = store.search(Search([home]))
    assert contents(found) == ["kept", "new", "old"]
    assert [one.score for one in found] == [None, None, None]
    assert contents(store.search(Search([home], limit=1))) == ["kept"]


def test_words_find_by_meaning_of_english_then_as_they_stand_then_any_of_them(home: str) -> None:
    for text in ("the cats are sleeping", "a dog barks", "50% of the_rest", "over and out"):
        store.commit(home, Write(text))
    (found,) = store.search(Search([home], query="sleep cat"))
    assert found.content == "the cats are sleeping"
    assert found.score is not None
    assert 0 < found.score < 1
    assert contents(store.search(Search([home], query="bark"))) == ["a dog barks"]
    assert contents(store.search(Search([home], query="er an"))) == ["over and out"]  # as it stands
    assert contents(store.search(Search([home], query="dog elephant"))) == ["a dog barks"]  # any word
    assert contents(store.search(Search([home], query="%"))) == ["50% of the_rest"]
    assert contents(store.search(Search([home], query="_"))) == ["50% of the_rest"]
    assert len(store.search(Search([home], query="the"))) == 2  # no word that English counts
    assert store.search(Search([home], query="\\")) == []
    assert store.search(Search([home], query="zebra")) == []


def test_the_record_with_all_the_words_is_before_the_others(home: str) -> None:
    store.commit(home, Write("blue whale, blue whale"))
    store.commit(home, Write("blue sky"))
    assert contents(store.search(Search([home], query="blue whale")))[0] == "blue whale, blue whale"


def test_only_the_named_namespaces_and_kinds_are_searched(home: str) -> None:
    store.put_namespace(AWAY, "team")
    store.commit(home, Write("mine"))
    store.commit(home, Write("sum", kind="summary"))
    store.commit(AWAY, Write("theirs"))
    assert contents(store.search(Search([home], kinds=["summary"]))) == ["sum"]
    assert sorted(contents(store.search(Search([home, AWAY], kinds=["fact"])))) == ["mine", "theirs"]
    assert contents(store.search(Search(["team:none"]))) == []
    assert refusal(store.search, Search([])) == Code.BAD_REQUEST
    assert refusal(store.search, Search(["workspace:x\n"])) == Code.BAD_REQUEST
    assert refusal(store.search, Search([home], kinds=["x"])) == Code.BAD_REQUEST
    assert refusal(store.search, Search([home], limit=101)) == Code.BAD_REQUEST


def test_the_expired_are_invisible_at_once_and_gone_a_day_later(home: str) -> None:
    moment = timezone.now()
    past = store.commit(home, Write("past", expires_at=moment - timedelta(hours=1)))
    store.commit(home, Write("long past", expires_at=moment - timedelta(days=2)))
    store.commit(home, Write("ahead", expires_at=moment + timedelta(hours=1)))
    assert contents(store.search(Search([home]))) == ["ahead"]
    assert refusal(store.get, str(past), home) == Code.NOT_FOUND
    assert store.forget_expired() == 1
    assert MemoryRecord.objects.count() == 2
    store.put_namespace(home, "workspace", expires_at=moment - timedelta(minutes=1))
    assert store.search(Search([home])) == []
    store.put_namespace(home, "workspace", expires_at=moment - timedelta(days=2))
    assert store.forget_expired() == 1
    assert not MemoryRecord.objects.exists()


def test_a_record_is_read_changed_and_forgotten_by_its_own_namespace_only(home: str) -> None:
    store.put_namespace(AWAY, "team")
    one = str(store.commit(home, Write("text", propagation={"source_workspace_id": "a"}, pin=True)))
    assert store.get(one, home).propagation == {"source_workspace_id": "a"}
    changed = store.update(one, home, {"content": "other", "pin": False})
    assert (changed.content, changed.pin, changed.propagation) == (
        "other",
        False,
        {"source_workspace_id": "a"},
    )
    assert contents(store.search(Search([home], query="other"))) == ["other"]
    for verb in (store.get, store.forget):
        assert refusal(verb, one, AWAY) == Code.NOT_FOUND
        assert refusal(verb, "not-a-uuid", home) == Code.BAD_REQUEST
    assert refusal(store.update, one, AWAY, {"pin": True}) == Code.NOT_FOUND
    assert refusal(store.update, one, home, {"source": "user"}) == Code.BAD_REQUEST
    ended = store.update(one, home, {"expires_at": timezone.now() - timedelta(seconds=1)})
    assert ended.content == "other"
    assert refusal(store.get, one, home) == refusal(store.update, one, home, {"pin": True}) == Code.NOT_FOUND
    store.forget(one, home)
    assert refusal(store.forget, one, home) == Code.NOT_FOUND


def test_lists_are_paged_to_the_end(home: str) -> None:
    ids = sorted(str(store.commit(home, Write(f"record {number}"))) for number in range(7))
    seen: list[str] = []
    cursor = None
    while True:
        page = store.list_records(home, cursor, 3)
        seen += [one.id for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ids
    store.put_namespace(AWAY, "team")
    assert [one.name for one in store.list_namespaces().items] == [AWAY, HOME]
    assert [one.name for one in store.list_namespaces("team:").items] == [AWAY]


def test_the_list_and_the_words_use_an_index(home: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO memory_namespaces (name, kind, created_at)
               SELECT 'workspace:' || n, 'workspace', now() FROM generate_series(1, 200) AS n"""
        )
        cursor.execute(
            """INSERT INTO memory_records (id, namespace, content, kind, source, pin, content_sha256,
                                           created_at, updated_at)
               SELECT gen_random_uuid(), 'workspace:' || (n % 200 + 1), 'word' || n, 'fact', 'agent', false,
                      '', now(), now() FROM generate_series(1, 20000) AS n"""
        )
        cursor.execute("ANALYZE memory_records, memory_namespaces")
        cursor.execute(
            "EXPLAIN SELECT * FROM memory_records WHERE namespace = ANY('{workspace:7}')"
            " ORDER BY pin DESC, created_at DESC, id LIMIT 20"
        )
        plan = str(cursor.fetchall())
        assert "Seq Scan" not in plan
        assert "Index Cond: (namespace" in plan
        cursor.execute(
            "EXPLAIN SELECT * FROM memory_records"
            " WHERE content_tsv @@ websearch_to_tsquery('english', 'word77')"
        )
        assert "memory_records_text" in str(cursor.fetchall())


def test_what_passes_over_the_wire_comes_back_the_same() -> None:
    moment = datetime(2026, 11, 26, 1, 2, 3, 4, tzinfo=UTC)
    namespace = store.put_namespace("org:x", "org", expires_at=moment, metadata={"a": [1]})
    assert namespace_from(namespace_json(namespace)) == namespace
    write = Write("text", "summary", "user", UUID(int=7), moment, {"tag": "x"}, True, (0.5, 1.0), moment)
    assert write_from(write_json(write)) == write
    wanted = Search(("org:x",), "words", ("fact",), 7, (1.0,))
    assert search_from(search_json(wanted)) == wanted
    memory = Memory("id", "org:x", "text", "fact", "agent", moment, None, {"a": 1}, True, 0.25)
    assert memory_from(memory_json(memory)) == memory
    plain = Memory("id", "org:x", "text", "fact", "agent", moment)
    assert set(memory_json(plain)) == {"id", "namespace", "content", "kind", "source", "created_at"}


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"content": "x", "kind": "fact"},
        {"content": 1, "kind": "fact", "source": "agent"},
        {"content": "x", "kind": "fact", "source": "agent", "id": "x"},
        {"content": "x", "kind": "fact", "source": "agent", "pin": 1},
        {"content": "x", "kind": "fact", "source": "agent", "expires_at": "tomorrow"},
        {"content": "x", "kind": "fact", "source": "agent", "expires_at": "2026-01-01T00:00:00"},
        {"content": "x", "kind": "fact", "source": "agent", "propagation": []},
        {"content": "x", "kind": "fact", "source": "agent", "embedding": [True]},
        {"content": "x", "kind": "fact", "source": "agent", "embedding": [float("nan")]},
    ],
)
def test_a_body_that_is_no_write_is_refused(body: Any) -> None:
    assert refusal(write_from, body) == Code.BAD_REQUEST


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"namespaces": "workspace:a"},
        {"namespaces": [1]},
        {"namespaces": [HOME], "limit": True},
        {"namespaces": [HOME], "limit": -1},
        {"namespaces": [HOME], "query": 1},
        {"namespaces": [HOME], "embedding": "x"},
    ],
)
def test_a_body_that_is_no_search_is_refused(body: Any) -> None:
    assert refusal(search_from, body) == Code.BAD_REQUEST
