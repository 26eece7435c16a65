"""Services that are away: nobody listens where they are expected. Nothing is pretended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import ProgrammingError, connection
from django.test import override_settings

from config.valkey import client
from stack import ports


@contextmanager
def database_away() -> Iterator[None]:
    """For tests with `transaction=True`: the connection is given up and cannot be made again."""
    known = dict(connection.settings_dict)
    _forget_connections()
    pool = {"pool": {"min_size": 0, "max_size": 4, "timeout": 0.3}}
    connection.settings_dict.update(
        HOST="127.0.0.1", PORT=str(ports.choose(1)[0]), OPTIONS={**known["OPTIONS"], **pool}
    )
    try:
        yield
    finally:
        _forget_connections()
        connection.settings_dict.update(known)


def _forget_connections() -> None:
    connection.close()
    connection.close_pool()


@contextmanager
def valkey_away() -> Iterator[None]:
    known = settings.REDIS_URL
    with override_settings(REDIS_URL=f"redis://127.0.0.1:{ports.choose(1)[0]}/0"):
        assert known != settings.REDIS_URL
        client.cache_clear()
        yield
    client.cache_clear()


@contextmanager
def statements_fail(containing: str) -> Iterator[None]:
    """Every statement of this thread's connection that contains the text is refused by the database."""

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if containing in sql:
            raise ProgrammingError(f"driver text that nobody outside may read: {sql}")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        yield
