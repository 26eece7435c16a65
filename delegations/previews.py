"""Texts cut to what a row keeps. Source: docs/reference/delegations.md, Previews."""

from __future__ import annotations

from activity.redaction import storable

PREVIEW_BYTES = 4096
_CONTINUES = range(0x80, 0xC0)  # bytes inside a code point


def preview(text: str | None) -> str | None:
    return None if text is None else cut(text)


def cut(text: str) -> str:
    """Cut to 4096 UTF-8 bytes at a code-point boundary, storable; exactly 4096 pass unchanged."""
    encoded: bytes = storable(text).encode()
    if len(encoded) <= PREVIEW_BYTES:
        return encoded.decode()
    end = PREVIEW_BYTES
    while encoded[end] in _CONTINUES:
        end -= 1
    return encoded[:end].decode()


def is_cut(text: str | None) -> bool:
    """Whether `preview` leaves something out."""
    return text is not None and len(storable(text).encode()) > PREVIEW_BYTES


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters, `...` included when it was cut."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def shown_duration(seconds: float) -> str:
    """`45s`, `10m30s`, `1h0m5s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
