"""The plugin process: `manage.py memory_plugin`. Source: docs/reference/memory-plugin.md, Process.

It needs a database and nothing else of the product: no Valkey, no Celery, none of the other tables.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import django
import waitress.server
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command

from config.locks import hold_lock
from memory_store import plugin_settings

log = logging.getLogger("memory_plugin")
LOCK = "memory_store migrations"
LEDGER = """CREATE TABLE IF NOT EXISTS memory_plugin_migrations (
    name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"""
EMBED_S, LONGEST_PAUSE_S = 2.0, 300.0


class Refused(Exception):
    """Why the process does not start, for a person."""


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `:port` (every interface) or `[::1]:port`. Raises Refused."""
    host, separator, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise Refused(f"MEMORY_PLUGIN_LISTEN_ADDR={text!r} is not host:port")
    return host or "0.0.0.0", int(port)


def listener(host: str, port: int) -> socket.socket:
    """Raises Refused."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise Refused(f"cannot listen on {host}:{port}: {error.strerror}") from None


def migrate() -> None:
    """Bring the two tables up to date; of several processes one does it, the others wait. Raises Refused."""
    with hold_lock(LOCK):
        if folder := plugin_settings.MEMORY_PLUGIN_MIGRATIONS_DIR:
            _apply(Path(folder))
        else:
            call_command("migrate", "memory_store", interactive=False, verbosity=0)


def _apply(folder: Path) -> None:
    """An operator's own files, each once, with its line in the ledger in one transaction."""
    from django.db import DatabaseError, connection, transaction

    files = sorted(folder.glob("*.up.sql"))
    if not files:
        raise Refused(f"MEMORY_PLUGIN_MIGRATIONS_DIR={str(folder)!r} holds no *.up.sql")
    with connection.cursor() as cursor:
        cursor.execute(LEDGER)
        cursor.execute("SELECT name FROM memory_plugin_migrations")
        applied = {row[0] for row in cursor.fetchall()}
    for file in files:
        if file.name in applied:
            continue
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(file.read_text())
                cursor.execute("INSERT INTO memory_plugin_migrations (name) VALUES (%s)", [file.name])
        except DatabaseError as error:
            raise Refused(f"{file.name} cannot be applied: {error}") from None
        log.info("memory-plugin: applied %s", file.name)


def main() -> int:
    logging.basicConfig(level="INFO", stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    os.environ["DJANGO_SETTINGS_MODULE"] = "memory_store.plugin_settings"
    try:
        if not plugin_settings.MEMORY_PLUGIN_DATABASE_URL:
            raise Refused("MEMORY_PLUGIN_DATABASE_URL is not set")
        host, port = address(plugin_settings.MEMORY_PLUGIN_LISTEN_ADDR)
        django.setup()
        _connect()
        if not plugin_settings.MEMORY_PLUGIN_SKIP_MIGRATE:
            migrate()
        _begin_vectors()
        _serve(listener(host, port))
    except Refused as reason:
        log.error("memory-plugin: %s", reason)
        return 1
    return 0


def _connect() -> None:
    from django.db import DatabaseError, InterfaceError
    from psycopg_pool import PoolTimeout

    from memory_store.services import ping

    try:
        ping()
    except (DatabaseError, InterfaceError, PoolTimeout):
        raise Refused("the database of MEMORY_PLUGIN_DATABASE_URL does not answer") from None


def _begin_vectors() -> None:
    """Ready for meaning, or told why not. Raises Refused where it is required."""
    from memory_store import vectors

    try:
        reason = vectors.begin(vectors.RECORDS)
    except vectors.Unavailable as unavailable:
        raise Refused(str(unavailable)) from None
    if reason:
        log.warning("memory-plugin: without vectors: %s", reason)
    elif vectors.is_active(vectors.RECORDS):
        threading.Thread(target=_embed, name="embed", daemon=True).start()


def _embed() -> None:
    """Give every record its vector, for as long as the process lives; a provider that fails is asked less."""
    from memory_store import vectors

    pause_s = EMBED_S
    while True:
        try:
            done = vectors.embed_pending(vectors.RECORDS)
            pause_s = 0.0 if done else EMBED_S
        except Exception as error:  # the provider or the database is away
            pause_s = min(max(pause_s, EMBED_S) * 2, LONGEST_PAUSE_S)
            log.warning("memory-plugin: vectors wait %g s: %s", pause_s, type(error).__name__)
        time.sleep(pause_s)


def _serve(sock: socket.socket) -> None:
    host, port = sock.getsockname()[:2]
    if not host.startswith(("127.", "::1")) and not plugin_settings.MEMORY_PLUGIN_TOKEN:
        log.warning("memory-plugin: open to the network without MEMORY_PLUGIN_TOKEN")
    server = waitress.server.create_server(
        WSGIHandler(),
        sockets=[sock],
        threads=plugin_settings.THREADS,
        channel_timeout=30,
        max_request_body_size=4 * 1024 * 1024,
        ident="memory-plugin",
        clear_untrusted_proxy_headers=True,
    )

    def end(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(0)  # waitress answers what it has begun, 5 seconds at most

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    log.info("memory-plugin: listening on %s:%d", host, port)
    server.run()
    log.info("memory-plugin: stopped")


if __name__ == "__main__":
    sys.exit(main())
