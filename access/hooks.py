"""What higher rooms want to know about secrets; each fills its list in `AppConfig.ready()`.

A hook runs inside the transaction of the change and must not wait for anything slow.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

# Called with (workspace id, key) when a secret that its agent reads at the start was set or deleted by
# somebody else.
secret_changed: list[Callable[[UUID, str], None]] = []
