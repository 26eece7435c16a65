"""Found by meaning: the extension, the side tables, who makes vectors, and how two orders become one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection

from config.embedding import AUTO, OFF, REQUIRED, Embedding
from memory.checks import vectors_can_be_had
from memory.services import meaning
from memory_store import fusion, vectors
from memory_store import services as store
from memory_store.contract import Code, Search, StoreError, Write
from memory_store.providers import NoVector, provider_of
from memory_store.vectors import RECORDS
from tests.memory_store.test_plugin import up

pytestmark = pytest.mark.django_db(transaction=True)
HOME = "workspace:a"
CHOSEN = Embedding(
    mode=AUTO, provider="local", url="", model="local", api_key="", dim=256, timeout_s=5, batch=16
)


class Endpoint:
    """An embeddings endpoint: vectors of three numbers by what a text is about; `fail` is its status."""

    def __init__(self) -> None:
        self.fail = 0
        self.asked: list[list[str]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append(given["input"])
                poisoned = any("poison" in text for text in given["input"])
                self.send_response(endpoint.fail or (400 if poisoned else 200))
                self.end_headers()
                data = [
                    {"index": index, "embedding": about(text)} for index, text in enumerate(given["input"])
                ]
                self.wfile.write(json.dumps({"data": data[::-1]}).encode())

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/embeddings"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def about(text: str) -> list[float]:
    """The sea, food, and the rest."""
    sea = any(word in text for word in ("harbour", "ship", "vessel", "sea"))
    food = any(word in text for word in ("pizza", "soup", "dinner"))
    return [float(sea), float(food), 0.0 if sea or food else 1.0]


@pytest.fixture
def clean() -> Iterator[None]:
    """The side tables go with the test: other tests have none."""
    vectors._known.clear()
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS memory_record_embeddings, agent_memory_embeddings")
    vectors._known.clear()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.end()


@pytest.fixture
def active(clean: None, endpoint: Endpoint, settings: Any) -> Endpoint:
    settings.MEMORY_EMBEDDING = choice(provider="http", url=endpoint.url, dim=3)
    vectors.enable(RECORDS)
    store.put_namespace(HOME, "workspace")
    return endpoint


def choice(**more: Any) -> Embedding:
    return Embedding(**{**CHOSEN.__dict__, **more})


def commit(content: str, **more: Any) -> UUID:
    return store.commit(HOME, Write(content, **more))


def embed_all() -> None:
    while vectors.embed_pending(RECORDS):
        pass


def contents(query: str, **more: Any) -> list[str]:
    return [one.content for one in store.search(Search([HOME], query=query, **more))]


# --- Finding


def test_a_paraphrase_is_found_and_what_has_no_vector_too(active: Endpoint) -> None:
    commit("the harbour is closed")
    commit("we had pizza")
    embed_all()
    commit("a vessel without a vector")
    assert contents("ship") == ["the harbour is closed", "we had pizza"]
    assert contents("vessel")[0] in {"the harbour is closed", "a vessel without a vector"}
    assert "a vessel without a vector" in contents("vessel")


def test_an_edited_text_is_not_found_by_its_old_meaning(active: Endpoint) -> None:
    record = commit("the harbour is closed")
    embed_all()
    store.update(str(record), HOME, {"content": "we had soup"})
    assert contents("ship") == []
    embed_all()
    assert contents("dinner") == ["we had soup"]


def test_a_provider_that_is_away_costs_meaning_and_nothing_else(active: Endpoint) -> None:
    commit("the harbour is closed")
    embed_all()
    active.fail = 500
    assert contents("ship") == []
    assert contents("harbour") == ["the harbour is closed"]
    commit("another")
    with pytest.raises(NoVector):
        vectors.embed_pending(RECORDS)


def test_a_text_that_nobody_can_take_does_not_hold_up_the_others(active: Endpoint) -> None:
    for text in ("first", "poison", "last"):
        commit(text)
    embed_all()
    assert vectors.backlog(RECORDS) == 0
    assert sorted(contents("whatever there is")) == ["first", "last"]


def test_kinds_namespaces_and_ends_hold_for_meaning_too(active: Endpoint) -> None:
    store.put_namespace("team:b", "team")
    commit("the harbour is closed", kind="summary")
    store.commit("team:b", Write("a ship of others"))
    commit("a ship that is gone", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    embed_all()
    assert contents("vessel") == ["the harbour is closed"]
    assert contents("vessel", kinds=["fact"]) == []


def test_a_vector_may_come_with_the_question_and_with_the_record(active: Endpoint) -> None:
    commit("x1", embedding=[1.0, 0.0, 0.0])
    commit("x2", embedding=[0.0, 1.0, 0.0])
    assert contents("", embedding=[0.9, 0.1, 0.0]) == ["x1", "x2"]
    for wrong in ([1.0], [1.0] * 4):
        with pytest.raises(StoreError) as refused:
            store.search(Search([HOME], embedding=wrong))
        assert refused.value.code == Code.BAD_REQUEST
        with pytest.raises(StoreError):
            commit("x3", embedding=wrong)


def test_scores_are_between_nothing_and_one_and_the_pinned_come_first(active: Endpoint) -> None:
    commit("the ship sails", pin=True)
    commit("the ship sails")
    commit("pizza")
    embed_all()
    found = store.search(Search([HOME], query="ship sails"))
    assert all(0 < (one.score or 0) <= 1 for one in found)
    assert found[0].pin
    assert "embedding" in store.capabilities()


def test_many_rows_are_found_by_the_index(active: Endpoint, monkeypatch: Any) -> None:
    for number in range(40):
        commit(f"harbour {number}")
    embed_all()
    monkeypatch.setattr(vectors, "FEW", 10)
    assert len(contents("vessel", limit=30)) == 30


def test_the_index_is_of_the_distance_that_is_asked_for(active: Endpoint) -> None:
    """One of another distance is never used, and nobody notices."""
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        try:
            cursor.execute(
                "EXPLAIN SELECT owner FROM memory_record_embeddings ORDER BY embedding <=> '[1,0,0]' LIMIT 5"
            )
            plan = "\n".join(row[0] for row in cursor.fetchall())
        finally:
            cursor.execute("SET enable_seqscan = on")
    assert "memory_record_embeddings_nearest" in plan


def test_two_orders_become_one() -> None:
    scores = fusion.fused(["a", "b", "c"], ["b", "d"])
    assert max(scores, key=lambda one: scores[one]) == "b"
    assert set(scores) == {"a", "b", "c", "d"}
    assert fusion.fused(["a"], ["a"]) == {"a": 1.0}
    now = datetime.now(UTC)
    old = now - timedelta(days=400)
    assert fusion.boosted(1.0, is_pinned=True, created_at=now, now=now) == 1.0
    assert fusion.boosted(0.5, is_pinned=False, created_at=old, now=now) < 0.5
    assert (fusion.pool(1), fusion.pool(100)) == (50, 400)


# --- Switching on


def test_the_model_that_comes_with_the_package_finds_by_meaning(clean: None, settings: Any) -> None:
    settings.MEMORY_EMBEDDING = CHOSEN
    vectors.enable(RECORDS)
    store.put_namespace(HOME, "workspace")
    commit("The port does not operate at the weekend.")
    commit("The cat sleeps on the sofa.")
    embed_all()
    assert contents("harbour closed on Sunday")[0] == "The port does not operate at the weekend."


def test_nothing_is_asked_of_the_extension_while_it_is_off(settings: Any) -> None:
    settings.MEMORY_EMBEDDING = choice(mode=OFF)
    assert vectors.begin(RECORDS) == ""
    assert not vectors.is_active(RECORDS)
    assert "embedding" not in store.capabilities()
    assert vectors.embed_pending(RECORDS) == 0
    store.put_namespace(HOME, "workspace")
    commit("a fact", embedding=[1.0])  # ignored


def test_making_it_twice_changes_nothing_and_another_length_is_refused(
    active: Endpoint, settings: Any
) -> None:
    vectors.enable(RECORDS)
    settings.MEMORY_EMBEDDING = choice(provider="http", url=active.url, dim=4)
    with pytest.raises(vectors.Unavailable, match="holds vectors of 3 numbers"):
        vectors.enable(RECORDS)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"provider": "http"}, "MEMORY_EMBEDDING_URL is not set"),
        ({"dim": 384}, "MEMORY_EMBEDDING_DIM=384, but the local model gives 256"),
    ],
    ids=str,
)
def test_a_choice_that_cannot_work_is_said(
    clean: None, settings: Any, given: dict[str, Any], reason: str
) -> None:
    settings.MEMORY_EMBEDDING = choice(**given)
    assert reason in vectors.begin(RECORDS)
    settings.MEMORY_EMBEDDING = choice(mode=REQUIRED, **given)
    with pytest.raises(vectors.Unavailable, match=reason):
        vectors.begin(RECORDS)
    (found,) = vectors_can_be_had(None, databases=["default"])
    assert reason in found.msg


def test_an_answer_that_is_no_vector_is_none(endpoint: Endpoint) -> None:
    provider = provider_of(choice(provider="http", url=endpoint.url, dim=7))
    with pytest.raises(NoVector, match="not 7 numbers"):
        provider.embed(["harbour"])


def test_the_commands_make_tables_and_vectors(
    clean: None, endpoint: Endpoint, settings: Any, capsys: Any
) -> None:
    call_command("memory_enable_vector")
    assert "off" in capsys.readouterr().out
    settings.MEMORY_V2_BACKEND = "inprocess"
    settings.MEMORY_EMBEDDING = choice(provider="http", url=endpoint.url, dim=3)
    with pytest.raises(SystemExit):
        call_command("memory_reembed")
    call_command("memory_enable_vector")
    assert "memory_records: found by meaning" in capsys.readouterr().out
    store.put_namespace(HOME, "workspace")
    for number in range(40):
        commit(f"ship {number}")
    call_command("memory_reembed")
    assert capsys.readouterr().out.endswith("40 vectors made\n")
    call_command("memory_reembed", "--all")
    assert capsys.readouterr().out.endswith("40 vectors made\n")
    assert meaning.embed_pending() == 0


# --- Without the extension


@pytest.fixture
def plain() -> Iterator[str]:
    """The address of a database without the extension, for a role that may not create it."""
    settings = connection.settings_dict
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE plain_vectors TEMPLATE template0")
    host, port = settings["HOST"], settings["PORT"]
    yield f"postgresql://{settings['USER']}:{settings['PASSWORD']}@{host}:{port}/plain_vectors"
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE plain_vectors WITH (FORCE)")


def test_a_plugin_without_the_extension_serves_words_or_refuses_to_start(plain: str, tmp_path: Any) -> None:
    given = {"MEMORY_PLUGIN_DATABASE_URL": plain, "MEMORY_EMBEDDING_PROVIDER": "local"}
    plugin = up(tmp_path, **given, MEMORY_VECTOR="auto")
    try:
        assert "embedding" not in plugin.ask("GET", "/v1/health").json()["capabilities"]
        assert plugin.log.read_text().count("without vectors") == 1
        plugin.ask("PUT", f"/v1/namespaces/{HOME}", {"kind": "workspace"})
        record = {"content": "the harbour", "kind": "fact", "source": "agent"}
        assert plugin.ask("POST", f"/v1/namespaces/{HOME}/memories", record).status_code == 201
        found = plugin.ask("POST", "/v1/search", {"namespaces": [HOME], "query": "harbour"}).json()
        assert len(found["memories"]) == 1
    finally:
        plugin.process.kill()
        plugin.process.wait(10)
    with pytest.raises(AssertionError, match="extension `vector`"):
        up(tmp_path, **given, MEMORY_VECTOR="required")
