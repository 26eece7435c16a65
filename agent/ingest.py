"""Files that the control plane relays to an agent it can call. Source: docs/reference/agent.md, Files."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from agent.bodies import BodyTooLarge, BrokenOff
from agent.folder import TooLarge, UploadFolder, stored_name, uri_of
from agent.multipart import Malformed, Part, boundary_of, parts
from agent.names import sanitised

log = logging.getLogger("agent")

FILE_LIMIT_BYTES = 25 * 1024 * 1024
REQUEST_LIMIT_BYTES = 50 * 1024 * 1024
FILES_LIMIT, FIELDS_LIMIT = 64, 32
FIELD = "files"


class Refused(Exception):
    """The answer to an upload that is not taken: status and body."""

    def __init__(self, status: int, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **more}


@dataclass
class _Batch:
    """The files of one request: all of them stay, or none."""

    folder: UploadFolder
    files: list[dict[str, Any]] = field(default_factory=list)
    written: list[tuple[str, str]] = field(default_factory=list)
    fields: int = 0

    def take(self, part: Part) -> None:
        if part.filename is None:
            self.fields += 1
        if self.fields > FIELDS_LIMIT or len(self.files) >= FILES_LIMIT:
            raise Refused(400, f"too many files: at most {FILES_LIMIT} files and {FIELDS_LIMIT} fields")
        if part.filename is None or part.name != FIELD:
            return
        digits = uuid4().hex
        try:
            with self.folder.new_file(digits, part.filename, limit=FILE_LIMIT_BYTES) as draft:
                for chunk in part.chunks:
                    draft.write(chunk)
        except TooLarge:
            name = part.filename[:255]
            raise Refused(413, f"{name} exceeds per-file limit ({FILE_LIMIT_BYTES // 2**20} MB)") from None
        self.written.append((digits, part.filename))
        name = sanitised(part.filename)
        mime_type = _type_of(part.content_type) or mimetypes.guess_type(name)[0] or ""
        uri = uri_of(stored_name(digits, part.filename))
        self.files.append({"uri": uri, "name": name, "mimeType": mime_type, "size": draft.size})

    def remove(self) -> None:
        for digits, name in self.written:
            self.folder.remove(digits, name)


def ingest(read: Callable[[int], bytes], content_type: str, folder: UploadFolder) -> list[dict[str, Any]]:
    """Write every file of the body; uri, name, mimeType and size of each, in order. Raises Refused."""
    batch = _Batch(folder)
    try:
        for part in parts(read, boundary_of(content_type)):
            batch.take(part)
        if not batch.files:
            raise Refused(400, f"no files field: send each file as a part named {FIELD}")
    except BaseException as error:
        batch.remove()
        refusal = _refusal(error, folder)
        if refusal is None:
            raise
        raise refusal from None
    return batch.files


def _refusal(error: BaseException, folder: UploadFolder) -> Refused | None:
    match error:
        case Refused():
            return error
        case Malformed() | BrokenOff():
            name = type(error).__name__
            return Refused(400, f"malformed multipart body: {error}", exception=name, detail=str(error))
        case BodyTooLarge():
            return Refused(413, "request body too large", max=REQUEST_LIMIT_BYTES)
        case OSError():
            log.error("uploads: %s cannot be written: %s", folder.path, error.strerror)
            more = {"path": str(folder.path), "errno": error.errno, "detail": error.strerror}
            return Refused(500, "the file could not be written", **more)
    return None


def _type_of(header: str) -> str:
    """The bare type of a part; what could not stand in a header becomes nothing."""
    bare = header.partition(";")[0].strip().lower()
    return bare if bare.isascii() and bare.isprintable() and bare.count("/") == 1 else ""
