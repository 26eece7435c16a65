"""What higher rooms know about a workspace that this one must not disturb; each fills its list in
`AppConfig.ready()`.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

# Asked before an idle workspace is put to sleep: is something on its way to it?
keeps_awake: list[Callable[[UUID], bool]] = []
