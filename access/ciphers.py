"""Secrets at rest: AES-256-GCM, a version per row.

Version 0 is plain bytes, written while no key was configured; 1 is sealed under `SECRETS_ENCRYPTION_KEY`; 2
and above under the key of that number in `SECRETS_ENCRYPTION_KEYS`, bound to what the value belongs to. The
highest configured version writes, the row's own version reads. Stored are 12 bytes of nonce, ciphertext, tag.
Source: docs/reference/access.md, Secrets.
"""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

NONCE_BYTES = 12
PLAIN, SEALED, FIRST_BOUND = 0, 1, 2


class CannotUnseal(Exception):
    """The key is missing or wrong, the bytes were changed, or they belong elsewhere."""


def seal(text: str, about: str = "") -> tuple[bytes, int]:
    """(bytes, version) to store; plain while no key is configured.

    `about` names what the value belongs to and is needed to read it again.
    """
    version = newest_version()
    if version == PLAIN:
        return text.encode(), PLAIN
    nonce = os.urandom(NONCE_BYTES)
    key = configured_keys()[version]
    return nonce + AESGCM(key).encrypt(nonce, text.encode(), _bound_to(version, about)), version


def unseal(stored: bytes, version: int, about: str = "") -> str:
    """The plain text. Raises CannotUnseal; never returns raw bytes of a sealed value."""
    if version == PLAIN:
        try:
            return stored.decode()
        except UnicodeDecodeError as error:
            raise CannotUnseal("plain bytes that are no text") from error
    key = configured_keys().get(version)
    if key is None:
        raise CannotUnseal(f"no key for version {version}")
    nonce, sealed = stored[:NONCE_BYTES], stored[NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, sealed, _bound_to(version, about)).decode()
    except (InvalidTag, ValueError) as error:
        raise CannotUnseal("sealed under another key, or damaged") from error


def _bound_to(version: int, about: str) -> bytes | None:
    return about.encode() if version >= FIRST_BOUND else None


def newest_version() -> int:
    """The version that writes; PLAIN while no key is configured."""
    return max(configured_keys(), default=PLAIN)


def configured_keys() -> dict[int, bytes]:
    """The keys by version. Raises ValueError, without the text of a key, when one of them is none."""
    keys = {}
    if given := settings.SECRETS_ENCRYPTION_KEY:
        keys[SEALED] = _key(given, "SECRETS_ENCRYPTION_KEY")
    for position, entry in enumerate(settings.SECRETS_ENCRYPTION_KEYS, start=1):
        number, _, text = entry.partition(":")
        if not number.isdecimal() or int(number) < FIRST_BOUND or int(number) in keys:
            raise ValueError(
                f"entry {position} of SECRETS_ENCRYPTION_KEYS does not begin with a number of its own from 2"
            )
        keys[int(number)] = _key(text, f"entry {position} of SECRETS_ENCRYPTION_KEYS")
    return keys


def _key(given: str, name: str) -> bytes:
    try:
        decoded = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) == 32:
        return decoded
    if len(given.encode()) == 32:
        return given.encode()
    raise ValueError(f"{name} is neither base64 of 32 bytes nor 32 characters")


def seal_text(text: str, about: str = "") -> str:
    """For a text column: `v<version>:<base64>`."""
    stored, version = seal(text, about)
    return f"v{version}:{base64.b64encode(stored).decode()}"


def unseal_text(stored: str, about: str = "") -> str:
    """Raises CannotUnseal."""
    version, _, encoded = stored.partition(":")
    try:
        return unseal(base64.b64decode(encoded, validate=True), int(version.removeprefix("v")), about)
    except (binascii.Error, ValueError) as error:
        raise CannotUnseal("not a sealed text") from error


def is_newest(stored: str) -> bool:
    """Whether a sealed text was written by the version that writes now."""
    return stored.startswith(f"v{newest_version()}:")
