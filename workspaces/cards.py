"""Agent cards: what an agent says about itself, as it is stored and as it is shown to others.

Source: docs/reference/registry.md, Agent cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from access.url_policy import check_url
from config.errors import BadRequest
from config.http import to_json
from workspaces.defaults import is_saas

CARD_BYTES = 256 * 1024
_OTHER_ADDRESSES = ("additionalInterfaces", "supportedInterfaces")  # where a card may name more of them


def is_too_large(card: Mapping[str, Any]) -> bool:
    return len(to_json(card)) > CARD_BYTES


def card_url(card: Mapping[str, Any]) -> str:
    url = card.get("url")
    return url if isinstance(url, str) else ""


def completed(card: Mapping[str, Any], *, workspace_id: UUID, name: str, role: str | None) -> dict[str, Any]:
    """The card with its gaps filled from the row; what the agent said stays."""
    full = dict(card)
    said = full.get("name")
    if not isinstance(said, str) or not said.strip() or said.lower() == str(workspace_id):
        full["name"] = name
    if not str(full.get("description") or "").strip():
        full["description"] = full["name"]
    if role and not full.get("role"):
        full["role"] = role
    return full


def without_forbidden_url(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card without an address that nobody may call."""
    kept = dict(card)
    if "url" in kept and not _may_be_called(card_url(kept)):
        del kept["url"]
    return kept


def _may_be_called(url: str) -> bool:
    try:
        check_url(url, is_saas=is_saas())
    except BadRequest:
        return False
    return True


def shown(
    card: Mapping[str, Any], *, workspace_id: UUID, name: str, role: str | None, url: str
) -> dict[str, Any]:
    """The card as other agents get it: reached through this server at `url`,
    never at the agent's own address.
    """
    full = completed(card, workspace_id=workspace_id, name=name, role=role)
    return {key: value for key, value in full.items() if key not in _OTHER_ADDRESSES} | {"url": url}
