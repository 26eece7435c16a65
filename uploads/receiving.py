"""A multipart body becomes files on disk while its limits are checked; nothing of it is kept in memory.

The files have no names in the file system, so they are gone whatever ends the request. Source:
docs/reference/uploads.md, Staging.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from django.utils.http import parse_header_parameters
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from config.errors import BadRequest, TooLarge
from uploads import mime_types, names
from uploads.limits import MAX_FIELDS, MAX_FILE_BYTES, MAX_FILES, MAX_REQUEST_BYTES, READ_BYTES, SHOWN_NAME
from uploads.storage import Item
from uploads.temporary import temporary_file

FIELD = "files"
MAX_BOUNDARY = 200
MAX_HEADER_BYTES = 8 * 1024
Read = Callable[[int], bytes]
_UNDECODABLE = re.compile("[\udc80-\udcff]")


@dataclass
class _Part:
    """A part that is being read; `body` is None for one that is not wanted."""

    name: str = ""
    mime_type: str = ""
    body: BinaryIO | None = None
    size: int = 0


@dataclass
class _Intake:
    stack: ExitStack
    items: list[Item] = field(default_factory=list)
    files: int = 0
    fields: int = 0
    part: _Part = field(default_factory=_Part)

    def begin(self, segment: MultipartSegment) -> None:
        parameters = _disposition(segment)
        name = parameters.get("filename")
        self.part = _Part()
        if name is None:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise BadRequest(f"too many files or fields: at most {MAX_FILES} files, {MAX_FIELDS} fields")
            return
        self.files += 1
        if self.files > MAX_FILES:
            raise BadRequest(f"too many files: at most {MAX_FILES} are allowed")
        if parameters.get("name") == FIELD:
            body = self.stack.enter_context(temporary_file())
            self.part = _Part(name, segment.header("Content-Type", ""), body)

    def take(self, data: bytes) -> None:
        part = self.part
        if part.body is None:
            return
        part.size += len(data)
        if part.size > MAX_FILE_BYTES:
            shown = part.name[:SHOWN_NAME]
            raise TooLarge(
                f"{shown} exceeds per-file limit ({MAX_FILE_BYTES // 2**20} MB)",
                filename=shown,
                size=part.size,
                max=MAX_FILE_BYTES,
            )
        part.body.write(data)

    def end(self) -> None:
        part, self.part = self.part, _Part()
        if part.body is None:
            return
        if part.size == 0:
            raise BadRequest("empty file", filename=part.name[:SHOWN_NAME])
        part.body.flush()
        name, mime_type = names.sanitised(part.name), mime_types.sanitised(part.mime_type)
        self.items.append(Item(part.body, part.size, name, mime_type))


@contextmanager
def received_files(read: Read, content_type: str) -> Iterator[list[Item]]:
    """The files of the parts named `files`, in their order; they are gone after the block.

    `read(n)` gives at most n bytes of the body, and none at its end. Raises BadRequest, TooLarge.
    """
    with ExitStack() as stack:
        intake = _Intake(stack)
        try:
            _parse(read, _boundary(content_type), intake)
        except (MultipartError, ValueError) as error:
            raise BadRequest(f"malformed multipart body: {error}") from None
        if not intake.items:
            raise BadRequest(f"no files field: send each file as a part named {FIELD}")
        yield intake.items


def _parse(read: Read, boundary: str, intake: _Intake) -> None:
    # Headers as bytes in characters: one that is no UTF-8 must not cost the whole request.
    parser = PushMultipartParser(boundary, max_header_size=MAX_HEADER_BYTES, header_charset="latin-1")
    taken = 0
    while chunk := _next(read):
        taken += len(chunk)
        if taken > MAX_REQUEST_BYTES:
            raise body_too_large()
        for event in parser.parse(chunk):
            if event is None:
                intake.end()
            elif isinstance(event, MultipartSegment):
                intake.begin(event)
            else:
                intake.take(event)
    parser.close()  # raises for a body that was cut: half of it must not count as all


def _next(read: Read) -> bytes:
    try:
        return read(READ_BYTES)
    except OSError as error:
        raise BadRequest("the upload could not be read") from error


def body_too_large() -> TooLarge:
    return TooLarge("request body too large", max=MAX_REQUEST_BYTES)


def _boundary(content_type: str) -> str:
    kind, parameters = parse_header_parameters(content_type)
    boundary = parameters.get("boundary", "")
    if kind != "multipart/form-data" or not 1 <= len(boundary) <= MAX_BOUNDARY:
        raise BadRequest("malformed multipart body: Content-Type is not multipart/form-data with a boundary")
    return boundary


def _disposition(segment: MultipartSegment) -> dict[str, str]:
    """The parameters of a part's Content-Disposition; each byte that is no UTF-8 becomes one U+FFFD.

    The parser's own reading of the file name takes a path apart, which the rules of names do differently.
    """
    raw = segment.header("Content-Disposition", "").encode("latin-1")
    text = _UNDECODABLE.sub("\ufffd", raw.decode(errors="surrogateescape"))
    parameters: dict[str, str] = parse_header_parameters(text)[1]
    return parameters
