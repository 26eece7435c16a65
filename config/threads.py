"""Threads of the realtime process: Django keeps one per request for its synchronous parts until the answer
is complete, which for a stream or a slow agent is minutes.
"""

from __future__ import annotations

from asgiref.sync import SyncToAsync
from django.db import connections


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
