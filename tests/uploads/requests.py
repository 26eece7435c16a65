"""Uploads as clients send them: bytes on the wire, made by hand so that nothing tidies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from activity.models import ActivityLog
from tests.clients import Api
from uploads.models import PendingUpload

BOUNDARY = "----a-boundary-0123456789"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


class Part(NamedTuple):
    name: str | bytes
    data: bytes
    mime_type: str = ""
    field: str = "files"


def part(one: Part) -> bytes:
    raw = one.name if isinstance(one.name, bytes) else one.name.encode()
    escaped = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"') if b'"' in raw else raw
    head = f'Content-Disposition: form-data; name="{one.field}"; filename="'.encode() + escaped + b'"\r\n'
    if one.mime_type:
        head += f"Content-Type: {one.mime_type}\r\n".encode()
    return b"--" + BOUNDARY.encode() + b"\r\n" + head + b"\r\n" + one.data + b"\r\n"


def field(name: str, value: str) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n{value}\r\n".encode()


END = f"--{BOUNDARY}--\r\n".encode()


def body(parts: Sequence[Part]) -> bytes:
    return b"".join(map(part, parts)) + END


def upload(
    caller: Api, workspace_id: Any, parts: Sequence[Part] | bytes, query: str = "", **headers: Any
) -> Any:
    raw = parts if isinstance(parts, bytes) else body(parts)
    headers.setdefault("content_type", CONTENT_TYPE)
    return caller._client.post(f"/workspaces/{workspace_id}/chat/uploads{query}", raw, **headers)


def content(caller: Api, workspace_id: Any, file_id: Any, **params: Any) -> Any:
    return caller.get(f"/workspaces/{workspace_id}/pending-uploads/{file_id}/content", **params)


def ack(caller: Api, workspace_id: Any, file_id: Any) -> Any:
    return caller.post(f"/workspaces/{workspace_id}/pending-uploads/{file_id}/ack")


def id_of(uri: str) -> UUID:
    return UUID(uri.rpartition("/")[2])


def bytes_of(answer: Any) -> bytes:
    return b"".join(answer.streaming_content)


def inbox(workspace_id: Any) -> list[ActivityLog]:
    rows = ActivityLog.objects.filter(workspace_id=workspace_id, method="chat_upload_receive")
    return list(rows.order_by("seq"))


def nothing_is_stored() -> bool:
    return not PendingUpload.objects.exists() and not ActivityLog.objects.exists()
