"""Bodies of the registry's routes, checked for shape. All raise BadRequest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from config.errors import BadRequest
from workspaces.cards import CARD_BYTES, is_too_large
from workspaces.models import DeliveryMode
from workspaces.services import Registration
from workspaces.texts import holds_nul

BAD_BODY = "invalid request body"


def registration(body: Any) -> Registration:
    """`POST /registry/register`."""
    card = _card(body)
    mode, url = body.get("delivery_mode") or None, body.get("url") or ""
    if mode is not None and mode not in DeliveryMode.values:
        raise BadRequest("delivery_mode must be 'push' or 'poll'")
    if not isinstance(url, str) or holds_nul(url):
        raise BadRequest(BAD_BODY)
    return Registration(_id(body, "id"), card, url.strip(), mode)


def card_update(body: Any) -> tuple[UUID, Mapping[str, Any]]:
    """`POST /registry/update-card`."""
    card = _card(body)
    return _id(body, "workspace_id"), card


def access_question(body: Any) -> tuple[UUID | None, UUID | None]:
    """`POST /registry/check-access`: caller and target; None for what is no id and so nobody's."""
    texts = [body.get(key) if isinstance(body, dict) else None for key in ("caller_id", "target_id")]
    if not all(isinstance(text, str) and text for text in texts):
        raise BadRequest(BAD_BODY)
    caller, target = (known_form(str(text)) for text in texts)
    return caller, target


def known_form(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _card(body: Any) -> Mapping[str, Any]:
    card = body.get("agent_card") if isinstance(body, dict) else None
    if not isinstance(card, dict) or holds_nul(card):
        raise BadRequest(BAD_BODY)
    if is_too_large(card):
        raise BadRequest(f"agent_card must be at most {CARD_BYTES} bytes")
    return card


def _id(body: Mapping[str, Any], key: str) -> UUID:
    given = body.get(key)
    found = known_form(given) if isinstance(given, str) else None
    if found is None:
        raise BadRequest(BAD_BODY)
    return found
