"""The embedded PostgreSQL and Valkey, and the throw-away pair around a command."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
import redis

from stack import accounts, ports, processes
from stack.application import PROJECT
from stack.errors import StackError
from stack.log import Log
from stack.postgres import Postgres, installations
from stack.supervisor import Supervisor
from stack.valkey import Valkey
from tests.stack.running import eventually, plain_environment


def with_servers(folder: Path, work: Callable[[Postgres, Valkey, Supervisor], Awaitable[None]]) -> None:
    """Run `work` with both servers of `folder` (which may hold data already), then stop them."""
    folder.mkdir(exist_ok=True)
    postgres_port, valkey_port = ports.choose(2)
    account = accounts.database_account()
    postgres = Postgres(folder / "postgres", postgres_port, "root secret", "role secret", account=account)
    valkey = Valkey(folder / "valkey", valkey_port, "valkey-secret")

    async def run() -> None:
        supervisor = Supervisor(Log(stream=sys.stderr))
        try:
            postgres.prepare(print)
            valkey.prepare()
            plain = {processes.MARK: str(folder)}
            await supervisor.start(
                [postgres.service(plain), valkey.service(plain)], lambda name, seconds: None
            )
            await postgres.create_database()
            await work(postgres, valkey, supervisor)
        finally:
            await supervisor.stop()

    asyncio.run(run())
    assert processes.belonging_to(folder) == []


def connect(postgres: Postgres) -> psycopg.Connection:
    url = f"host=127.0.0.1 port={postgres.port} user=workspace dbname=workspace"
    return psycopg.connect(url, password=postgres.password, autocommit=True)


def test_the_role_owns_its_database_and_is_no_superuser(folder: Path) -> None:
    async def work(postgres: Postgres, valkey: Valkey, supervisor: Supervisor) -> None:
        with connect(postgres) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute("CREATE TABLE things (name text, place vector(3))")
            connection.execute("INSERT INTO things VALUES ('ä', '[1,2,3]')")
            upper = connection.execute("SELECT upper(name) FROM things").fetchone()
            assert upper == ("Ä",)
            is_super = connection.execute(
                "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
            assert is_super == (False,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(host="127.0.0.1", port=postgres.port, user="workspace", password="wrong")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=valkey.port).ping()
        assert redis.Redis.from_url(valkey.url).ping()

    with_servers(folder, work)


def test_what_is_committed_survives_a_kill_and_a_restart(folder: Path) -> None:
    async def kill(postgres: Postgres, valkey: Valkey, supervisor: Supervisor) -> None:
        with connect(postgres) as connection:
            connection.execute("CREATE TABLE things (name text)")
            connection.execute("INSERT INTO things VALUES ('kept')")
        before = supervisor.pids()["postgres"]
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(60):
            while supervisor.pids().get("postgres") in (None, before) or not await postgres.answers():
                await asyncio.sleep(0.05)
        with connect(postgres) as connection:
            assert connection.execute("SELECT name FROM things").fetchall() == [("kept",)]

    async def read(postgres: Postgres, valkey: Valkey, supervisor: Supervisor) -> None:
        with connect(postgres) as connection:
            assert connection.execute("SELECT name FROM things").fetchall() == [("kept",)]

    with_servers(folder, kill)
    with_servers(folder, read)


def test_an_interrupted_first_start_leaves_no_half_of_a_cluster(folder: Path) -> None:
    folder.mkdir()
    (folder / "postgres.new").mkdir()
    (folder / "postgres.new" / "PG_VERSION").write_text("18")

    async def nothing(postgres: Postgres, valkey: Valkey, supervisor: Supervisor) -> None: ...

    with_servers(folder, nothing)
    assert sorted(path.name for path in folder.iterdir()) == ["postgres", "valkey"]


def test_data_of_a_version_we_do_not_have_is_refused(folder: Path) -> None:
    (folder / "postgres").mkdir(parents=True)
    (folder / "postgres" / "PG_VERSION").write_text("9")
    with pytest.raises(StackError, match=r"was written by PostgreSQL 9, but only \[.*\] is installed"):
        Postgres(folder / "postgres", 1, "", "").prepare(print)


def test_the_newest_server_is_used() -> None:
    assert max(installations()) >= 16


def throw_away(temporary: Path, *words: str) -> subprocess.Popen[str]:
    temporary.mkdir()
    command = [sys.executable, "-m", "stack", "run", "--", *words]
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        env=plain_environment(TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_command_gets_servers_of_its_own_and_its_status_is_passed_on(folder: Path) -> None:
    code = (
        "import os, psycopg, redis\n"
        "connection = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True)\n"
        "connection.execute('CREATE DATABASE another')\n"
        "print(connection.execute('SHOW fsync').fetchone())\n"
        "print(redis.Redis.from_url(os.environ['REDIS_URL']).ping())\n"
        "print(os.environ['DATABASE_URL'], len(os.environ['DJANGO_SECRET_KEY']) > 30)\n"
        "raise SystemExit(7)"
    )
    command = throw_away(folder, sys.executable, "-c", code)
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 7
    assert "('off',)\nTrue\n" in output
    assert not _answers(output)


def test_a_command_that_is_asked_to_stop_leaves_nothing(folder: Path) -> None:
    command = throw_away(
        folder,
        sys.executable,
        "-c",
        "import os, time; print(os.environ['DATABASE_URL'], flush=True); time.sleep(3600)",
    )
    assert command.stdout is not None
    url = command.stdout.readline()
    assert _answers(url)
    command.terminate()
    assert command.wait(30) == 128 + signal.SIGTERM
    assert not _answers(url)
    assert list(folder.iterdir()) == []
    command.stdout.close()


def test_given_servers_are_used() -> None:
    code = "import os; print(os.environ['DATABASE_URL'], os.environ['REDIS_URL'])"
    done = subprocess.run(
        [sys.executable, "-m", "stack", "run", "--", sys.executable, "-c", code],
        cwd=PROJECT, env=plain_environment(DATABASE_URL="postgresql://theirs", REDIS_URL="redis://theirs"),
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "postgresql://theirs redis://theirs\n"


def test_servers_do_not_outlive_a_killed_run(folder: Path) -> None:
    command = throw_away(
        folder,
        sys.executable,
        "-c",
        "import os, time; print(os.environ['DATABASE_URL'], flush=True); time.sleep(3600)",
    )
    assert command.stdout is not None
    url = command.stdout.readline()
    command.kill()
    command.wait()
    eventually(lambda: not _answers(url), 20)
    command.stdout.close()


def _answers(output: str) -> bool:
    url = next(word for word in output.split() if word.startswith("postgresql://"))
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
