"""What higher rooms want to know about a workspace, or know better; each fills its list in
`AppConfig.ready()`.

A hook must not wait for anything slow, and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from workspaces.models import Workspace

# Called with (workspace id, generation) inside the transaction in which an agent brings a row from
# provisioning or failed to online.
came_online: list[Callable[[UUID, int], None]] = []

# Called with the workspace id after a stored heartbeat of a living workspace that could take another task,
# when somebody asked for its slot (workspaces/cache.py, ask_for_slot).
has_free_slot: list[Callable[[UUID], None]] = []

# Asked for the address at which other agents reach a workspace with compute of ours; the first answer counts.
internal_address: list[Callable[[Workspace], str | None]] = []

# Called with the ids of a removed subtree, inside the transaction that removes it.
removed: list[Callable[[list[UUID]], None]] = []

# Called with a new row and the memories it is to be born with, inside the transaction that creates it.
born: list[Callable[[Workspace, Sequence[Mapping[str, Any]]], None]] = []

# Called with the ids of what a purge deletes, inside its transaction.
purged: list[Callable[[list[UUID]], None]] = []

# Asked for the seconds a start may take, by runtime, as whoever describes runtimes declares them.
provision_timeouts: list[Callable[[], Mapping[str, int]]] = []
