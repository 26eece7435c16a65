"""Headers of a file on its way out: a browser saves it and never shows it as a page of ours.

Source: docs/reference/uploads.md, Content.
"""

from __future__ import annotations

from urllib.parse import quote

from uploads.mime_types import FALLBACK


def download_headers(name: str, mime_type: str) -> dict[str, str]:
    return {
        "Content-Type": mime_type or FALLBACK,
        "Content-Disposition": disposition(name),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-store",
    }


def disposition(name: str) -> str:
    """`attachment` with the name in both spellings; no name can break out of it."""
    printable = "".join(character for character in name if character >= " " and character != "\x7f")
    plain = printable.replace("\\", "\\\\").replace('"', '\\"')
    plain = "".join(character if character < "\x80" else "_" for character in plain)
    encoded = quote(printable.encode(errors="replace"), safe="-._~")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
