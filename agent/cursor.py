"""How far the inbox has been read, on disk, so that a restart neither skips a message nor answers twice."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from agent.files import write_private

log = logging.getLogger("agent")

HANDLED_LIMIT = 1000  # row ids remembered: twice the largest backlog the control plane answers


class InboxCursor:
    """The id of the last row handled (None: start with the backlog) and the ids handled lately."""

    def __init__(self, path: Path, workspace_id: str) -> None:
        """Load `path`; a missing, unreadable or foreign file is an empty cursor."""
        self.row_id: str | None = None
        self._path = path
        self._workspace_id = workspace_id
        self._handled: dict[str, None] = {}  # an ordered set
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["workspace_id"] == workspace_id:
                self.row_id = str(stored["cursor"]) if stored["cursor"] else None
                self._handled = dict.fromkeys(str(row_id) for row_id in stored["handled"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is unusable (%s); the inbox starts with the backlog", path, type(error).__name__)

    def was_handled(self, row_id: str) -> bool:
        return row_id in self._handled

    def advance(self, row_id: str) -> None:
        """`row_id` is done. In memory only: call save() before anything that depends on it."""
        self._handled[row_id] = None
        while len(self._handled) > HANDLED_LIMIT:
            del self._handled[next(iter(self._handled))]
        self.row_id = row_id

    def drop(self) -> None:
        """Forget the cursor, not the handled ids."""
        self.row_id = None

    def save(self) -> None:
        """Raises OSError."""
        stored = {"workspace_id": self._workspace_id, "cursor": self.row_id, "handled": list(self._handled)}
        write_private(self._path, json.dumps(stored, separators=(",", ":")))
