"""Names and types, as tables; the same tables go through a request and through the agent elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.uploads.cases import NAMES, TYPES
from uploads import mime_types, names
from uploads.dispositions import disposition
from uploads.limits import MAX_FILENAME


@pytest.mark.parametrize(("given_name", "stored"), NAMES)
def test_a_name_becomes_safe(given_name: str, stored: str) -> None:
    assert names.sanitised(given_name) == stored


@given(st.text())
def test_a_safe_name_stays_and_is_safe(name: str) -> None:
    once = names.sanitised(name)
    assert names.sanitised(once) == once
    assert 1 <= len(once) <= MAX_FILENAME
    assert once not in {".", ".."}
    assert set(once) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


@pytest.mark.parametrize(("given_type", "stored"), TYPES)
def test_a_type_becomes_safe(given_type: str, stored: str) -> None:
    assert mime_types.sanitised(given_type) == stored


@given(st.text())
def test_a_safe_type_stays(given_type: str) -> None:
    once = mime_types.sanitised(given_type)
    assert mime_types.sanitised(once) == once


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("report.pdf", 'filename="report.pdf"'),
        ('weird".pdf', 'filename="weird\\".pdf"'),
        ("back\\slash", 'filename="back\\\\slash"'),
        ("bad\r\nX-Leak: 1\r\n.txt", 'filename="badX-Leak: 1.txt"'),
        ("résumé.pdf", "filename*=UTF-8''r%C3%A9sum%C3%A9.pdf"),
        ("résumé.pdf", 'filename="r_sum_.pdf"'),
        ("a b~c.txt", "filename*=UTF-8''a%20b~c.txt"),
    ],
)
def test_a_disposition_is_always_an_attachment(name: str, part: str) -> None:
    built = disposition(name)
    assert built.startswith("attachment; filename=")
    assert part in built
    assert not set(built) & {"\r", "\n"}
