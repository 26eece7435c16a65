"""Sensitive values of a channel's configuration: sealed in the table, masked on the wire.

Stored as `ec<version of the key>:<base64>`, the ciphertext of access/ciphers.py bound to workspace, provider
and key; `ec0:` is what a deployment without a key writes. Source: docs/reference/chat_channels.md, Secrets.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from uuid import UUID

from access.ciphers import CannotUnseal, newest_version, seal, unseal

MASK = "********"
_SEALED = re.compile(r"ec(\d+):(.*)", re.DOTALL)


def sealed_config(
    config: Mapping[str, str], sensitive: frozenset[str], workspace_id: UUID, channel_type: str
) -> dict[str, str]:
    """The configuration as it is stored. Raises ValueError while a configured key is none."""
    return {
        key: _sealed(value, _about(workspace_id, channel_type, key)) if key in sensitive else value
        for key, value in config.items()
    }


def plain_config(
    stored: Mapping[str, str], sensitive: frozenset[str], workspace_id: UUID, channel_type: str
) -> dict[str, str]:
    """The configuration as it was given. Raises CannotUnseal."""
    return {
        key: _unsealed(value, _about(workspace_id, channel_type, key)) if key in sensitive else value
        for key, value in stored.items()
    }


def masked_config(stored: Mapping[str, str], sensitive: frozenset[str]) -> dict[str, str]:
    """The configuration as clients see it: that a value is there, nothing of it."""
    return {key: MASK if key in sensitive else value for key, value in stored.items()}


def is_sealed_anew(stored: Mapping[str, str], sensitive: frozenset[str]) -> bool:
    """Whether every sensitive value was written by the version that writes now."""
    newest = f"ec{newest_version()}:"
    return all(value.startswith(newest) for key, value in stored.items() if key in sensitive)


def _about(workspace_id: UUID, channel_type: str, key: str) -> str:
    return f"channel:{workspace_id}:{channel_type}:{key}"


def _sealed(text: str, about: str) -> str:
    stored, version = seal(text, about)
    return f"ec{version}:{base64.b64encode(stored).decode()}"


def _unsealed(stored: str, about: str) -> str:
    found = _SEALED.fullmatch(stored)
    if found is None:
        raise CannotUnseal("not a sealed value")
    try:
        return unseal(base64.b64decode(found[2], validate=True), int(found[1]), about)
    except (binascii.Error, ValueError) as error:
        raise CannotUnseal("not a sealed value") from error
