"""Discovery: where one workspace finds another. Source: docs/reference/registry.md, Discover."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from access.url_policy import check_url
from config.errors import BadRequest, Forbidden, NotFound, Unavailable
from workspaces import cache
from workspaces.defaults import is_saas
from workspaces.models import ALIVE, DeliveryMode, Workspace
from workspaces.selectors import can_communicate, forwarding_target, internal_address

log = structlog.get_logger(__name__)

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1"})
HOST_FROM_A_CONTAINER = "host.docker.internal"


def discover(*, caller_id: UUID | None, target_id: UUID) -> dict[str, Any]:
    """Who the target is and the url to call it at; '' when it is reached through this server only.

    A retired target is followed to its successor, and the rule is asked about that one. Raises Forbidden,
    NotFound, Unavailable.
    """
    resolved = forwarding_target(target_id)
    if caller_id is None or resolved is None or not can_communicate(caller_id, resolved):
        raise Forbidden("not authorized to discover this workspace")
    target = Workspace.objects.live().filter(pk=resolved).first()
    if target is None:
        raise NotFound("workspace not found")
    return {
        "id": target.pk,
        "url": _url(target, caller_id),
        "name": target.name,
        "role": target.role,
        "status": target.status,
        "delivery_mode": target.delivery_mode,
    }


def _url(target: Workspace, caller_id: UUID) -> str:
    if target.delivery_mode == DeliveryMode.POLL:
        return ""
    if not target.is_managed:
        return _external_url(target, caller_id) if target.url else ""
    if known := cache.internal_url(target.pk):
        return known
    address = internal_address(target) if target.status in ALIVE else ""
    if not address:
        raise Unavailable("workspace not available", status=target.status)
    cache.remember_internal_url(target.pk, address)
    return address


def _external_url(target: Workspace, caller_id: UUID) -> str:
    """The stored url, judged again; a loopback one is named as a container of ours sees it."""
    url = target.url or ""
    try:
        check_url(url, is_saas=is_saas())
    except BadRequest as error:
        log.warning("discover.url_refused", workspace_id=str(target.pk), reason=error.text)
        raise Unavailable("workspace URL failed safety check") from None
    parts = urlsplit(url)
    if parts.hostname not in LOOPBACK_NAMES or not _runs_on_our_compute(caller_id):
        return url
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{HOST_FROM_A_CONTAINER}{port}").geturl()


def _runs_on_our_compute(workspace_id: UUID) -> bool:
    return Workspace.objects.managed().filter(pk=workspace_id).exists()
