"""What the room of the delegations wants to know of messages; it fills the lists when it is ready.

A hook runs inside the transaction of what it is told, and must not wait for anything slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from a2a.models import QueueItem
from a2a.results import Result

# A queued message has come to its end, with its result when there was one: the item is as now stored.
settled: list[Callable[[QueueItem, Result | None], None]] = []

# Asked before a message of a delegation is sent from the queue: False when nobody waits for it any more.
is_wanted: list[Callable[[str], bool]] = []

# A workspace says something to another: (sender, target, envelope). Before the row in the target's feed.
said: list[Callable[[UUID, UUID, Mapping[str, Any]], None]] = []
