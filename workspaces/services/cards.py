"""Changing an agent's card by itself. Source: docs/reference/registry.md, Agent cards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from access.url_policy import check_url
from activity.events import EventType, record
from config.errors import BadRequest, Gone, NotFound, failing_as
from config.states import update_returning
from workspaces.cards import card_url
from workspaces.defaults import is_saas
from workspaces.models import Status, Workspace
from workspaces.services.registrant import REMOVED_HINT, find, identify


def update_card(
    *,
    workspace_id: UUID,
    card: Mapping[str, Any],
    authorization: str | None,
    is_operator: Callable[[], bool],
) -> None:
    """Replace the stored card. Raises NotFound, Gone, Unauthorized, Unavailable, BadRequest (url)."""
    row = find(workspace_id)
    if row is None:
        raise NotFound("workspace not found")
    if row.status == Status.REMOVED:
        raise Gone("workspace removed", id=str(row.pk), hint=REMOVED_HINT)
    if not is_operator():
        identify(workspace_id, authorization)
    if "url" in card:
        _check_card_url(card)
    with failing_as("failed to update card"), transaction.atomic():
        changes = {"agent_card": dict(card), "updated_at": Now()}
        stored = update_returning(Workspace.objects.live().filter(pk=workspace_id), **changes)
        if not stored:
            raise Gone("workspace removed", id=str(workspace_id), hint=REMOVED_HINT)
        record(EventType.AGENT_CARD_UPDATED, workspace_id, {"agent_card": stored[0].agent_card})


def _check_card_url(card: Mapping[str, Any]) -> None:
    if not card["url"]:
        return
    try:
        check_url(card_url(card), is_saas=is_saas())
    except BadRequest:
        raise BadRequest("workspace URL not allowed") from None
