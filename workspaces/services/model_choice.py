"""Which model and which provider an agent is started with: two sealed secrets of its workspace.

Rows of the tree have no column for them, so that a restart reads them where it reads every other secret.
Source: docs/reference/panels.md, Model and provider.
"""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from uuid import UUID

from django.db import transaction

from access.services import (
    SecretUnreadable,
    read_secret,
    remove_workspace_secret,
    set_workspace_secret,
)
from config.errors import Internal, NotFound, failing_as
from workspaces.services.presence import lock_live


class Choice(StrEnum):
    """The secret that holds it."""

    MODEL = "MODEL_PROVIDER"
    PROVIDER = "LLM_PROVIDER"

    @property
    def word(self) -> str:
        """What it is called on the wire."""
        return self.name.lower()


def chosen(workspace_id: UUID, choice: Choice) -> str:
    """The stored choice, '' when nobody made one. Raises Internal when it cannot be read."""
    try:
        with failing_as("query failed"):
            return read_secret(workspace_id, choice) or ""
    except SecretUnreadable:
        raise Internal("failed to decrypt") from None


def choose(*, workspace_id: UUID, choice: Choice, value: str, by_its_agent: bool) -> bool:
    """Store a choice, or drop it when `value` is empty; returns whether that changed anything.

    A change asks for a restart, in the same transaction, unless the agent made it: a restart would end the
    turn in which it did. Raises NotFound.
    """
    key, doing = choice.value, "save" if value else "clear"
    with failing_as(f"failed to {doing} {choice.word}"), transaction.atomic():
        if value:
            return set_workspace_secret(
                workspace_id=workspace_id, key=key, value=value, by_its_agent=by_its_agent
            )
        lock_live(workspace_id)
        with suppress(NotFound):  # of the secret: there was no choice
            remove_workspace_secret(workspace_id=workspace_id, key=key, by_its_agent=by_its_agent)
            return True
        return False
