"""A provider's configuration as clients and templates give it, brought into one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chat_channels.adapters.base import CHAT_ID, Adapter
from config.errors import BadRequest

VALUE_CHARS = 4096
MOST_USERS = 1000
USER_CHARS = 200
_SYNONYMS = {"channel_id": CHAT_ID}


def cleaned(adapter: Adapter, given: Mapping[str, Any]) -> dict[str, str]:
    """The known keys with their values as text; an empty value is none. What the provider does not know is
    left out: it would lie in the table unsealed. Raises BadRequest.
    """
    known = {field.key for field in adapter.config_schema}
    config = {}
    for name, value in given.items():
        key = canonical(name)
        if key not in known or value is None:
            continue
        text = scalar(f"config.{key}", value).strip()
        if len(text) > VALUE_CHARS or "\x00" in text:
            raise BadRequest(f"config.{key} is too long or cannot be stored")
        if text:
            config[key] = text
    return config


def canonical(key: str) -> str:
    return _SYNONYMS.get(key, key)


def scalar(name: str, value: Any) -> str:
    """Raises BadRequest for a list or an object."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
    raise BadRequest(f"{name} must be a text, a number or true or false")


def users(given: Iterable[Any]) -> list[str]:
    """Ids and names as they are compared: text, in lower case, without an @. Raises BadRequest."""
    found = [user(scalar("allowed_users", one)) for one in given]
    if len(found) > MOST_USERS or any(len(one) > USER_CHARS or "\x00" in one for one in found):
        raise BadRequest(f"allowed_users takes at most {MOST_USERS} ids or names")
    return [one for one in dict.fromkeys(found) if one]


def user(text: str) -> str:
    return text.strip().removeprefix("@").lower()
