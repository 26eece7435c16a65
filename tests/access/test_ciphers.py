from __future__ import annotations

import base64
from typing import Any

import pytest

from access.ciphers import PLAIN, SEALED, CannotUnseal, configured_keys, seal, seal_text, unseal, unseal_text

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def sealed(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = KEY


def test_without_a_key_a_secret_is_plain_and_says_so(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = ""
    assert seal("gehéim 😀") == ("gehéim 😀".encode(), PLAIN)


@pytest.mark.usefixtures("sealed")
def test_with_a_key_a_secret_is_sealed_each_time_differently() -> None:
    one, version = seal("gehéim 😀")
    two, _ = seal("gehéim 😀")
    assert version == SEALED
    assert one != two
    assert "gehéim".encode() not in one
    assert len(one) == 12 + len("gehéim 😀".encode()) + 16
    assert unseal(one, version) == unseal(two, version) == "gehéim 😀"
    assert unseal(memoryview(one), version) == "gehéim 😀"


@pytest.mark.usefixtures("sealed")
def test_a_row_written_before_the_key_stays_readable() -> None:
    assert unseal(b"plain", PLAIN) == "plain"


def test_a_sealed_row_without_its_key_is_an_error_and_never_raw_bytes(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = KEY
    stored, version = seal("text")
    for other in ("", "x" * 32):
        settings.SECRETS_ENCRYPTION_KEY = other
        with pytest.raises(CannotUnseal):
            unseal(stored, version)


@pytest.mark.usefixtures("sealed")
def test_damage_is_an_error() -> None:
    stored, version = seal("text")
    damaged = stored[:-1] + bytes([stored[-1] ^ 1])
    for wrong in (damaged, stored[:20], b""):
        with pytest.raises(CannotUnseal):
            unseal(wrong, version)
    with pytest.raises(CannotUnseal):
        unseal(b"\xff\xfe", PLAIN)


@pytest.mark.usefixtures("sealed")
@pytest.mark.parametrize("version", [2, -1])
def test_an_unknown_version_is_an_error(version: int) -> None:
    with pytest.raises(CannotUnseal):
        unseal(seal("text")[0], version)


@pytest.mark.parametrize("key", [KEY, "0123456789abcdef0123456789abcdef"])
def test_a_key_is_base64_of_32_bytes_or_32_characters(settings: Any, key: str) -> None:
    settings.SECRETS_ENCRYPTION_KEY = key
    assert len(configured_keys()[SEALED]) == 32


@pytest.mark.parametrize("key", ["garbage", base64.b64encode(b"x" * 16).decode(), "x" * 33])
def test_a_text_that_is_no_key_is_refused(settings: Any, key: str) -> None:
    settings.SECRETS_ENCRYPTION_KEY = key
    with pytest.raises(ValueError, match="SECRETS_ENCRYPTION_KEY"):
        configured_keys()


@pytest.mark.parametrize("key", ["", KEY])
def test_a_text_column_carries_its_version(settings: Any, key: str) -> None:
    settings.SECRETS_ENCRYPTION_KEY = key
    stored = seal_text("abc")
    assert stored.startswith("v1:" if key else "v0:")
    assert unseal_text(stored) == "abc"


@pytest.mark.parametrize("stored", ["", "abc", "v1:***", "vx:YWJj", "v9:YWJj"])
def test_a_damaged_text_column_is_an_error(stored: str) -> None:
    with pytest.raises(CannotUnseal):
        unseal_text(stored)
