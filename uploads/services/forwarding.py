"""Files to and from an agent that can be called. Source: docs/reference/uploads.md, Forwarding, Download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

from config.errors import BadRequest, Forbidden
from uploads import relay
from uploads.delivery import Target
from uploads.limits import MAX_REQUEST_BYTES, READ_BYTES
from uploads.receiving import body_too_large
from uploads.relay import Answered

INGEST_PATH = "/internal/chat/uploads/ingest"
READ_PATH = "/internal/file/read"
ROOTS = ("/configs", "/workspace", "/home", "/plugins")
CONFIGS = ROOTS[0]


def forward_upload(
    target: Target, read: Callable[[int], bytes], *, content_type: str, length: int | None
) -> Answered:
    """Relay the body of an upload as it comes; `length` is what its sender declared, None for chunks.

    Raises BadRequest for one that is cut, TooLarge, and as `relay.call`.
    """
    size = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
    headers = [("Content-Type", content_type), size]
    return relay.call(target, "POST", INGEST_PATH, op="upload", headers=headers, body=_counted(read, length))


def _counted(read: Callable[[int], bytes], length: int | None) -> Iterator[bytes]:
    taken = 0
    while chunk := read(READ_BYTES):
        taken += len(chunk)
        if taken > MAX_REQUEST_BYTES:
            raise body_too_large()
        yield chunk
    if length is not None and taken < length:
        raise BadRequest("the upload was cut off")


def fetch_artefact(target: Target, path: str) -> Answered:
    """A file of the agent's own file system, for the user. Raises BadRequest, Forbidden, as `relay.call`."""
    return relay.call(target, "GET", f"{READ_PATH}?path={quote(path, safe='')}", op="download")


def checked_path(given: str) -> str:
    """An absolute path that may be downloaded: judged as text, with no rule of any operating system.

    Raises BadRequest; Forbidden for what holds credentials.
    """
    if not given:
        raise BadRequest("path query required")
    if not given.startswith("/"):
        raise BadRequest("path must be absolute")
    if not any(given == root or given.startswith(f"{root}/") for root in ROOTS):
        raise BadRequest(f"path must be under {', '.join(ROOTS)}")
    segments = given.split("/")[1:]
    has_control = any(character < " " or character == "\x7f" for character in given)
    if has_control or any(segment in {"", ".", ".."} for segment in segments):
        raise BadRequest("invalid path")
    if given.startswith(f"{CONFIGS}/") and any(segment.startswith(".") for segment in segments):
        raise Forbidden("this file is not for download")
    return given
