"""Files mentioned in messages: what an agent may attach to one, and what a row of the feed refers to.

Only references: the bytes were uploaded before. Source: docs/reference/activity.md, Attachments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from config.errors import BadRequest

MAX_ATTACHMENTS = 64
UPLOAD_METHOD = "chat_upload_receive"
_KINDS = ("image", "audio", "video")
# A browser runs or renders these when a chip is clicked; it ignores white space and control characters
# before and inside a scheme.
_UNSAFE = re.compile(r"(?i)(?:javascript|data|vbscript|blob):")
_IGNORED_BY_BROWSERS = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ufeff]")


def checked_attachments(given: list[Any]) -> list[dict[str, Any]]:
    """The attachments as stored and shown: `uri`, `name` and, when they say something, `mimeType`, `size`.

    Raises BadRequest for the first bad one; then nothing of the message is kept.
    """
    if len(given) > MAX_ATTACHMENTS:
        raise BadRequest(f"attachment[{MAX_ATTACHMENTS}]: at most {MAX_ATTACHMENTS} attachments are allowed")
    return [_checked(index, one) for index, one in enumerate(given)]


def _checked(index: int, given: Any) -> dict[str, Any]:
    named = isinstance(given, dict) and all(
        isinstance(given.get(key), str) and given[key].strip() for key in ("uri", "name")
    )
    if not named:
        raise BadRequest(f"attachment[{index}]: uri and name are required")
    if _UNSAFE.match(_IGNORED_BY_BROWSERS.sub("", given["uri"])):
        raise BadRequest(f"attachment[{index}]: uri scheme is not allowed")
    found = {"uri": given["uri"], "name": given["name"]}
    mime_type, size = given.get("mimeType"), given.get("size")
    if isinstance(mime_type, str) and mime_type:
        found["mimeType"] = mime_type
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        found["size"] = size
    return found


def mentioned(method: str | None, request_body: Any) -> list[dict[str, Any]]:
    """The files of a stored message, or of an upload notice: `{"kind", "uri", "mime_type", "name"}`."""
    if not isinstance(request_body, dict):
        return []
    files = [request_body] if method == UPLOAD_METHOD else list(_file_parts(request_body))
    return [_shown(one) for one in files if isinstance(one.get("uri"), str) and one["uri"]]


def _file_parts(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        parts = body["params"]["message"]["parts"]
    except (KeyError, TypeError):
        return
    for part in parts if isinstance(parts, list) else []:
        file = part.get("file") if isinstance(part, dict) else None
        if isinstance(file, dict):
            yield file


def _shown(file: dict[str, Any]) -> dict[str, Any]:
    mime_type = file.get("mimeType")
    main_type = mime_type.partition("/")[0] if isinstance(mime_type, str) else ""
    return {
        "kind": main_type if main_type in _KINDS else "file",
        "uri": file["uri"],
        "mime_type": mime_type,
        "name": file.get("name"),
    }
