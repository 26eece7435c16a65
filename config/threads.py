"""Threads of the realtime process: Django keeps one per request for its synchronous parts until the answer
is complete, which for a stream or a slow agent is minutes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar, cast

from asgiref.sync import SyncToAsync
from channels.db import database_sync_to_async
from django.db import connection, connections

P = ParamSpec("P")
T = TypeVar("T")


def release_thread() -> None:
    """Give back the thread of the running request and its database connections; the next synchronous part
    starts another.

    Called on the event loop by whoever now waits long. Does nothing outside a request.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.pop(context, None) if context else None
    if executor is not None:
        executor.submit(connections.close_all)  # in the thread that owns them, after what it is doing
        executor.shutdown(wait=False)


def in_thread(call: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """`call` in a thread of the event loop's pool, its database connection given back afterwards.

    For what belongs to no request: all sockets together would else wait for one thread.
    """
    return cast(Callable[P, Awaitable[T]], database_sync_to_async(call, thread_sensitive=False))


def release_connection() -> None:
    """Give the thread's database connection back to the pool before something that may take long; the next
    statement takes another. Does nothing inside a transaction.
    """
    if not connection.in_atomic_block:
        connection.close()
