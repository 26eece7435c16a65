"""Advisory locks of PostgreSQL: who may do a thing now, whichever process asks.

Session locks live on a connection of their own, so that they last through many transactions and die with the
process. Transaction locks order writers inside `atomic()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from django.db import connection, transaction

# What Django adds for its own cursors; the rest of its parameters is libpq's.
_OF_DJANGO = frozenset({"context", "cursor_factory", "prepare_threshold"})

# A lock over one 64-bit number is listed in two halves, with objsubid 1.
_HOLDER = """
SELECT held.pid, host(session.client_addr), date_trunc('second', session.backend_start)
FROM (SELECT hashtextextended(%s, 0) AS number) AS wanted
JOIN pg_locks AS held ON held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
    AND held.classid::bigint = (wanted.number >> 32) & 4294967295
    AND held.objid::bigint = wanted.number & 4294967295
    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
JOIN pg_stat_activity AS session USING (pid)
"""


@contextmanager
def try_lock(name: str) -> Iterator[bool]:
    """Hold the session lock `name` for the block; yields False at once when somebody else holds it.

    The lock survives commits and is released when the block ends or the process dies.
    """
    with _own_connection() as held:
        (mine,) = held.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)
        ).fetchone() or (False,)
        if not mine:
            yield False
            return
        with _released_after(held, name):
            yield True


@contextmanager
def hold_lock(name: str) -> Iterator[None]:
    """Wait for the session lock `name` and hold it for the block."""
    with _own_connection() as held:
        held.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
        with _released_after(held, name):
            yield


@contextmanager
def _released_after(held: psycopg.Connection[tuple[object, ...]], name: str) -> Iterator[None]:
    """Free before the caller goes on: a server may take its time over a connection that was closed."""
    try:
        yield
    finally:
        with suppress(psycopg.Error):  # the connection is broken, and the lock went with it
            held.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (name,))


def holder_of(name: str) -> str:
    """Who holds the session lock `name`, as the database knows its connection; an empty text when nobody."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLDER, [name])
        found = cursor.fetchone()
    return f"database session {found[0]} from {found[1] or 'this machine'}, since {found[2]}" if found else ""


def lock_in_transaction(name: str, *, is_shared: bool = False) -> None:
    """Wait for the transaction lock `name`; it is released by commit or rollback.

    Shared holders wait for an exclusive one only. Raises outside a transaction.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("a transaction lock needs a transaction")
    with connection.cursor() as cursor:
        mode = "_shared" if is_shared else ""
        cursor.execute(f"SELECT pg_advisory_xact_lock{mode}(hashtextextended(%s, 0))", [name])


def outside_transaction() -> None:
    """First line of every call to a backend, agent or provider: none of them may be waited for inside a
    transaction.

    Raises TransactionManagementError in one. Tests that wrap themselves in a transaction do not count.
    """
    if connection.in_atomic_block and not _only_the_test_transaction():
        raise transaction.TransactionManagementError("a slow call must not be made inside a transaction")


def release_connection() -> None:
    """Give the thread's connection back before a long wait; the next statement takes another."""
    if not connection.in_atomic_block:
        connection.close()


def _only_the_test_transaction() -> bool:
    blocks = getattr(connection, "atomic_blocks", [])
    return all(getattr(block, "_from_testcase", False) for block in blocks)


def _own_connection() -> psycopg.Connection[tuple[object, ...]]:
    params = connection.get_connection_params()
    wanted = {
        key: value for key, value in params.items() if key not in _OF_DJANGO
    }  # sslmode and the like stay
    wanted |= {"connect_timeout": 5, "application_name": "workspace-lock"}
    return psycopg.connect(**wanted, autocommit=True)
