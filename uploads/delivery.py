"""Which way a file goes to an agent, decided from the workspace's row before a byte is forwarded.

Source: docs/reference/uploads.md, Two ways.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from django.conf import settings
from django.db import connection

from config.errors import NotFound, Unavailable, Unprocessable
from uploads.models import PendingUpload
from workspaces.models import DeliveryMode, UrlSource, Workspace

LOOK_AGAIN_S = 60.0


class Way(Enum):
    STAGE = "stage"
    FORWARD = "forward"


@dataclass(frozen=True)
class Target:
    """What of a workspace's row decides. Older schemas hold no mode, or one we do not know."""

    workspace_id: UUID
    delivery_mode: str | None
    url: str
    is_own_url: bool  # written by the server itself, hence not judged by the policy for others' urls


def target_of(workspace_id: UUID) -> Target:
    """Raises NotFound for an unknown or removed workspace."""
    rows = Workspace.objects.live().filter(pk=workspace_id)
    found = rows.values_list("delivery_mode", "url", "url_source").first()
    if found is None:
        raise NotFound("workspace not found")
    mode, url, source = found
    return Target(workspace_id, mode, url or "", is_own_url=source == UrlSource.PLATFORM)


def way_of(target: Target, *, is_wired: bool) -> Way:
    """How a file reaches the agent. Raises Unprocessable when it never can, Unavailable when not yet."""
    if target.delivery_mode == DeliveryMode.POLL and is_wired:
        return Way.STAGE
    require_url(target, "chat upload")
    return Way.FORWARD


def require_url(target: Target, what: str) -> None:
    """Raises Unavailable for an agent that will say where it is, Unprocessable where none ever can."""
    if target.url:
        return
    if target.delivery_mode == DeliveryMode.PUSH:
        raise Unavailable("workspace agent has not registered a URL yet; retry shortly")
    raise Unprocessable(
        f"workspace has no callback URL: {what} needs an agent in push mode",
        detail="re-register the agent in push mode with a public URL",
    )


class _Staging:
    """Whether the table is there: code may be rolled out before its migration."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._is_there = False
        self._asked_at = float("-inf")

    def is_there(self) -> bool:
        if not self._is_there and time.monotonic() - self._asked_at >= LOOK_AGAIN_S:
            with connection.cursor() as cursor:
                cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [PendingUpload._meta.db_table])
                (self._is_there,) = cursor.fetchone()
            self._asked_at = time.monotonic()
        return self._is_there


staging = _Staging()


def is_wired() -> bool:
    """Whether new files may be staged."""
    return settings.PENDING_UPLOADS_BACKEND != "off" and staging.is_there()
