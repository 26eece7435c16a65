"""The plugin process: started as an operator starts it, asked over HTTP as the server asks it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import connection

from memory_store import services as store
from memory_store.models import MemoryNamespace
from memory_store.plugin import Refused, address
from tests.activity.processes import environment
from tests.waiting import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
WRITE = {"content": "the cats sleep", "kind": "fact", "source": "agent"}


@dataclass
class Plugin:
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        if isinstance(body, bytes):
            return self.client.request(method, path, content=body, **more)
        return self.client.request(method, path, json=body, **more)


def database_url() -> str:
    return environment()["DATABASE_URL"]


def begin(folder: Path, **variables: str) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / "plugin.log"
    given = {name: value for name, value in environment().items() if not name.startswith("MEMORY_")}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "memory_plugin"],
            cwd=django_settings.BASE_DIR,
            env={**given, "MEMORY_PLUGIN_LISTEN_ADDR": "127.0.0.1:0", **variables},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    return process, log


def up(folder: Path, **variables: str) -> Plugin:
    process, log = begin(folder, **variables)
    try:
        eventually(lambda: "listening on" in log.read_text() or process.poll() is not None, within_s=60)
        found = re.search(r"listening on (\S+):(\d+)", log.read_text())
        assert found, log.read_text()
        client = httpx.Client(base_url=f"http://127.0.0.1:{found[2]}", timeout=30, trust_env=False)
        return Plugin(process, log, client)
    except BaseException:
        process.kill()
        raise


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    running = up(tmp_path, MEMORY_PLUGIN_DATABASE_URL=database_url())
    yield running
    running.process.kill()
    running.process.wait()


def test_a_record_lives_and_dies_over_the_wire(plugin: Plugin) -> None:
    health = plugin.ask("GET", "/v1/health")
    assert health.json()["status"] == "ok"
    assert {"fts", "ttl", "pin", "propagation"} <= set(health.json()["capabilities"])
    assert "embedding" not in health.json()["capabilities"]
    put = plugin.ask("PUT", "/v1/namespaces/workspace%3Aa", {"kind": "workspace"})
    assert (put.status_code, put.json()["name"]) == (200, "workspace:a")
    made = plugin.ask("POST", "/v1/namespaces/workspace:a/memories", WRITE)
    assert (made.status_code, made.json()["namespace"]) == (201, "workspace:a")
    one = made.json()["id"]
    found = plugin.ask("POST", "/v1/search", {"namespaces": ["workspace:a"], "query": "sleeping cat"})
    assert [memory["id"] for memory in found.json()["memories"]] == [one]
    asking = {"requested_by_namespace": "workspace:a"}
    patched = plugin.ask("PATCH", f"/v1/memories/{one}", {**asking, "pin": True})
    assert (patched.status_code, patched.json()["pin"]) == (200, True)
    assert plugin.ask("GET", f"/v1/memories/{one}", params=asking).json()["content"] == WRITE["content"]
    listed = plugin.ask("GET", "/v1/namespaces/workspace:a/memories").json()
    assert ([memory["id"] for memory in listed["memories"]], listed["next_cursor"]) == ([one], None)
    assert plugin.ask("GET", "/v1/namespaces?prefix=work").json()["namespaces"][0]["name"] == "workspace:a"
    foreign = plugin.ask("DELETE", f"/v1/memories/{one}", {"requested_by_namespace": "team:b"})
    assert (foreign.status_code, foreign.json()["code"]) == (404, "not_found")
    assert plugin.ask("DELETE", f"/v1/memories/{one}", asking).status_code == 204
    assert plugin.ask("POST", "/v1/search", {"namespaces": ["workspace:a"]}).json() == {"memories": []}
    assert plugin.ask("DELETE", "/v1/namespaces/workspace:a").status_code == 204
    assert plugin.ask("DELETE", "/v1/namespaces/workspace:a").status_code == 404
    assert not MemoryNamespace.objects.exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("POST", "/v1/health", {}, 404, "not_found"),
        ("GET", "/v1/search", None, 404, "not_found"),
        ("GET", "/v1/namespaces/team:x/other", None, 404, "not_found"),
        ("POST", "/v1/namespaces/team:x", {}, 405, "bad_request"),
        ("PUT", "/v1/namespaces/", {}, 400, "bad_request"),
        ("PUT", "/v1/namespaces/team:x", b"{", 400, "bad_request"),
        ("PUT", "/v1/namespaces/team:x", {"kind": "org"}, 400, "bad_request"),
        ("PUT", "/v1/namespaces/team:x%0A", {"kind": "team"}, 400, "bad_request"),
        ("PATCH", "/v1/namespaces/team:x", {}, 400, "bad_request"),
        ("PATCH", "/v1/namespaces/team:x", {"metadata": {}}, 404, "not_found"),
        ("POST", "/v1/namespaces/team:x/memories", WRITE, 404, "not_found"),
        ("POST", "/v1/namespaces/team:x/memories", {"content": ""}, 400, "bad_request"),
        ("POST", "/v1/search", {"namespaces": []}, 400, "bad_request"),
        ("POST", "/v1/search", {"namespaces": ["team:x"], "limit": 101}, 400, "bad_request"),
        ("POST", "/v1/search", b'{"namespaces":["team:x"],"embedding":[NaN]}', 400, "bad_request"),
        ("POST", "/v1/search", b'"' + b"x" * (2 * 1024 * 1024) + b'"', 413, "bad_request"),
        ("DELETE", "/v1/memories/6f9619ff-8b86-4d11-b42d-00c04fc964ff", {}, 400, "bad_request"),
        ("DELETE", "/v1/memories/x", {"requested_by_namespace": "team:x"}, 400, "bad_request"),
    ],
)
def test_what_is_wrong_is_said_in_one_shape(
    everybodys: Plugin, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = everybodys.ask(method, path, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message"}


@pytest.fixture(scope="module")
def everybodys(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plugin]:
    """One process for those who leave nothing behind."""
    with django_db_blocker.unblock():
        url = database_url()
    running = up(tmp_path_factory.mktemp("plugin"), MEMORY_PLUGIN_DATABASE_URL=url)
    yield running
    running.process.kill()
    running.process.wait()


def test_a_record_of_another_namespace_is_not_taken_over(everybodys: Plugin) -> None:
    for name in ("team:a", "team:b"):
        store.put_namespace(name, "team")
    one = str(store.commit("team:a", store.Write("mine")))
    answer = everybodys.ask("POST", "/v1/namespaces/team:b/memories", {**WRITE, "id": one})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert store.get(one, "team:a").content == "mine"


@pytest.mark.parametrize(
    "changes",
    [{}, {"content": 5}, {"content": " "}, {"pin": "yes"}, {"propagation": []},
     {"propagation": {"a": "\x00"}}, {"expires_at": "tomorrow"}, {"source": "user"}],
)  # fmt: skip
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(
    everybodys: Plugin, changes: dict[str, Any]
) -> None:
    store.put_namespace("team:a", "team")
    one = str(store.commit("team:a", store.Write("mine")))
    before = store.get(one, "team:a")
    asked = {"requested_by_namespace": "team:a", **changes}
    answer = everybodys.ask("PATCH", f"/v1/memories/{one}", asked)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert store.get(one, "team:a") == before


def test_a_token_closes_everything_but_health(tmp_path: Path) -> None:
    running = up(tmp_path, MEMORY_PLUGIN_DATABASE_URL=database_url(), MEMORY_PLUGIN_TOKEN="a secret")
    try:
        wanted = {"namespaces": ["team:x"]}
        assert running.ask("GET", "/v1/health").status_code == 200
        assert running.ask("POST", "/v1/search", wanted).status_code == 401
        for token, status in (("other", 401), ("a secret", 200)):
            headers = {"Authorization": f"Bearer {token}"}
            assert running.ask("POST", "/v1/search", wanted, headers=headers).status_code == status
        assert "a secret" not in running.log.read_text()
    finally:
        running.process.kill()
        running.process.wait()


def test_a_signal_ends_it(plugin: Plugin) -> None:
    plugin.process.send_signal(signal.SIGTERM)
    assert plugin.process.wait(15) == 0
    assert "stopped" in plugin.log.read_text()


def test_without_a_database_it_ends_and_says_why(tmp_path: Path) -> None:
    process, log = begin(tmp_path)
    assert process.wait(60) == 1
    assert "MEMORY_PLUGIN_DATABASE_URL is not set" in log.read_text()
    process, log = begin(tmp_path, MEMORY_PLUGIN_DATABASE_URL="postgresql://nobody:hidden@127.0.0.1:1/none")
    assert process.wait(60) == 1
    assert "does not answer" in log.read_text()
    assert "hidden" not in log.read_text()
    assert "listening" not in log.read_text()


def test_two_that_begin_on_an_empty_database_make_its_tables_once_and_no_others(tmp_path: Path) -> None:
    name = f"plugin_{uuid4().hex}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # without any extension
    url = urlsplit(database_url())._replace(path=f"/{name}").geturl()
    running: list[Plugin] = []
    try:
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        began = [begin(folder, MEMORY_PLUGIN_DATABASE_URL=url) for folder in folders]
        running = [Plugin(process, log, httpx.Client()) for process, log in began]
        eventually(lambda: all("listening on" in one.log.read_text() for one in running), within_s=60)
        with psycopg.connect(url) as own:
            rows = own.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            extensions = own.execute("SELECT extname FROM pg_extension").fetchall()
        assert {row[0] for row in rows} == {"django_migrations", "memory_namespaces", "memory_records"}
        assert "vector" not in {row[0] for row in extensions}
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_it_says_so_when_its_database_is_away(tmp_path: Path) -> None:
    """A database of its own is dropped under it."""
    name = f"plugin_{uuid4().hex}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # without any extension
    url = urlsplit(database_url())._replace(path=f"/{name}").geturl()
    running = up(tmp_path, MEMORY_PLUGIN_DATABASE_URL=url)
    try:
        assert running.ask("GET", "/v1/health").status_code == 200
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        health = running.ask("GET", "/v1/health")
        assert (health.status_code, health.json()["status"]) == (503, "degraded")
        answer = running.ask("POST", "/v1/search", {"namespaces": ["team:x"]})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert name not in answer.text
    finally:
        running.process.kill()
        running.process.wait()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":9100", ("0.0.0.0", 9100)),
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("[::1]:9100", ("::1", 9100)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["9100", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Refused):
        address(text)


def test_its_default_is_this_machine_alone() -> None:
    declared = subprocess.run(
        [
            sys.executable,
            "-c",
            "from memory_store import plugin_settings as s; print(s.MEMORY_PLUGIN_LISTEN_ADDR)",
        ],
        cwd=django_settings.BASE_DIR,
        env={"PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    host, port = address(declared.stdout.strip())
    assert socket.inet_aton(host)[0] == 127
    assert port == 9100


def test_an_operators_own_files_are_applied_by_name_and_once(tmp_path: Path) -> None:
    name = f"plugin_{uuid4().hex}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    url = urlsplit(database_url())._replace(path=f"/{name}").geturl()
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "010_second.up.sql").write_text("INSERT INTO trail (step) VALUES ('second'); SELECT '100%'")
    (folder / "002_first.up.sql").write_text(
        "CREATE TABLE trail (step text); INSERT INTO trail VALUES ('first')"
    )
    (folder / "002_first.down.sql").write_text("DROP TABLE trail")
    given = {"MEMORY_PLUGIN_DATABASE_URL": url, "MEMORY_PLUGIN_MIGRATIONS_DIR": str(folder)}
    try:
        for _ in range(2):
            running = up(tmp_path, **given)
            running.process.terminate()
            running.process.wait(20)
        with psycopg.connect(url) as own:
            trail = own.execute("SELECT step FROM trail").fetchall()
            ledger = own.execute("SELECT name FROM memory_plugin_migrations ORDER BY applied_at").fetchall()
        assert trail == [("first",), ("second",)]
        assert ledger == [("002_first.up.sql",), ("010_second.up.sql",)]
        (folder / "020_broken.up.sql").write_text("CREATE TABLE half (a int); nonsense")
        process, log = begin(tmp_path, **given)
        assert process.wait(60) == 1
        assert "020_broken.up.sql cannot be applied" in log.read_text()
        with psycopg.connect(url) as own:
            assert own.execute("SELECT to_regclass('half')").fetchone() == (None,)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_tables_may_be_left_to_somebody_else(tmp_path: Path) -> None:
    name = f"plugin_{uuid4().hex}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    url = urlsplit(database_url())._replace(path=f"/{name}").geturl()
    running = up(tmp_path, MEMORY_PLUGIN_DATABASE_URL=url, MEMORY_PLUGIN_SKIP_MIGRATE="1")
    try:
        with psycopg.connect(url) as own:
            rows = own.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert rows == []
    finally:
        running.process.kill()
        running.process.wait()
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
