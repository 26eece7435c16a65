"""Texts cut to what a row keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delegations.previews import PREVIEW_BYTES, cut, is_cut, preview, shortened, shown_duration


def test_exactly_the_limit_passes_unchanged():
    assert cut("a" * PREVIEW_BYTES) == "a" * PREVIEW_BYTES
    assert not is_cut("a" * PREVIEW_BYTES)
    assert is_cut("a" * (PREVIEW_BYTES + 1))
    assert preview(None) is None


def test_a_character_is_never_halved():
    assert cut("a" * 4095 + "世") == "a" * 4095
    assert cut("a" * 4093 + "世") == "a" * 4093 + "世"


def test_what_the_database_cannot_store_is_replaced():
    assert cut("a\x00b\ud800c") == "a\ufffdb\ufffdc"


@given(st.text(alphabet=st.characters(), max_size=3000).map(lambda text: text * 3))
def test_any_text_gives_a_valid_prefix(text: str):
    kept = cut(text)
    assert len(kept.encode()) <= PREVIEW_BYTES
    assert is_cut(text) == (len(kept) < len(text))


def test_durations_read_as_people_write_them():
    assert [shown_duration(s) for s in (45, 600, 630, 3605, 1800)] == [
        "45s",
        "10m0s",
        "10m30s",
        "1h0m5s",
        "30m0s",
    ]


def test_shortened_texts_say_so():
    assert shortened("x" * 100, 100) == "x" * 100
    assert shortened("x" * 101, 100) == "x" * 97 + "..."
