"""What higher rooms want to know about a workspace; each fills its list in `AppConfig.ready()`.

A hook runs inside the transaction of the change and must not wait for anything slow.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

# Called with (workspace id, generation) when an agent brings a row from provisioning or failed to online.
came_online: list[Callable[[UUID, int], None]] = []
