"""Secrets at rest: AES-256-GCM, a version per row.

Version 0 is plain bytes, written while no key was configured; version 1 is sealed under
`SECRETS_ENCRYPTION_KEY`.
Stored bytes are 12 bytes of nonce, ciphertext, tag. Source: docs/reference/access.md, Secrets.
"""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

NONCE_BYTES = 12
PLAIN, SEALED = 0, 1


class CannotUnseal(Exception):
    """The key is missing or wrong, or the bytes were changed."""


def seal(text: str) -> tuple[bytes, int]:
    """(bytes, version) to store; plain while no key is configured."""
    key = configured_key()
    if key is None:
        return text.encode(), PLAIN
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text.encode(), None), SEALED


def unseal(stored: bytes, version: int) -> str:
    """The plain text. Raises CannotUnseal; never returns raw bytes of a sealed value."""
    if version == PLAIN:
        try:
            return stored.decode()
        except UnicodeDecodeError as error:
            raise CannotUnseal("plain bytes that are no text") from error
    key = configured_key()
    if version != SEALED or key is None:
        raise CannotUnseal(f"no key for version {version}")
    try:
        return AESGCM(key).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], None).decode()
    except (InvalidTag, ValueError) as error:
        raise CannotUnseal("sealed under another key, or damaged") from error


def configured_key() -> bytes | None:
    """The 32-byte key, None when none is set. Raises ValueError for one that is no key."""
    given: str = settings.SECRETS_ENCRYPTION_KEY
    if not given:
        return None
    try:
        decoded = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) == 32:
        return decoded
    if len(given.encode()) == 32:
        return given.encode()
    raise ValueError("SECRETS_ENCRYPTION_KEY is neither base64 of 32 bytes nor 32 characters")


def seal_text(text: str) -> str:
    """For a text column: `v<version>:<base64>`."""
    stored, version = seal(text)
    return f"v{version}:{base64.b64encode(stored).decode()}"


def unseal_text(stored: str) -> str:
    """Raises CannotUnseal."""
    version, _, encoded = stored.partition(":")
    try:
        return unseal(base64.b64decode(encoded, validate=True), int(version.removeprefix("v")))
    except (binascii.Error, ValueError) as error:
        raise CannotUnseal("not a sealed text") from error
