"""What other rooms do with runs: the channels of a workspace. Filled when the app is ready.

A hook that fails is logged and changes nothing about the run. It is called outside every transaction and
may take up to 30 s; it holds a worker for as long.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

# Asked before a run for what was said lately in the channels of the workspace; '' when there is nothing. It
# goes before the prompt.
recent_context: list[Callable[[UUID], str]] = []

# Called with the workspace and the text of a run that went well, once the run is on record.
answered: list[Callable[[UUID, str], object]] = []
