"""No statement of the scheduler waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

MOST_MS = 10_000


@contextmanager
def bounded() -> Iterator[None]:
    """A transaction in which each statement may take ten seconds. Raises OperationalError."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {MOST_MS}")
        yield
