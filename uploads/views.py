"""Routes of files between a person and an agent. Plain views: the bodies are streams, not documents.

Source: docs/reference/uploads.md.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from access.authentication import principal_of
from access.credentials import Kind, Principal
from access.permissions import require_workspace
from activity.feed import limit_of
from config.errors import BadRequest, DomainError, TooLarge, TooManyRequests, datastore_unavailable
from config.http import json_response, only, path_uuid, workspace_uuid
from config.limits import streamed_body
from config.threads import release_connection
from uploads import delivery, mime_types, names, services
from uploads.delivery import Target, Way
from uploads.dispositions import download_headers
from uploads.limits import LISTED, MAX_FILE_BYTES, MAX_FILES, MAX_LISTED, MAX_REQUEST_BYTES
from uploads.models import PendingUpload
from uploads.receiving import body_too_large, received_files

MAX_ERROR_BYTES = 64 * 1024

log = structlog.get_logger(__name__)

_LIMITS = {
    "per_file_bytes": MAX_FILE_BYTES,
    "per_request_bytes": MAX_REQUEST_BYTES,
    "max_attachments_per_message": MAX_FILES,
}


@only("GET")
def limits(request: HttpRequest) -> HttpResponse:
    """`GET /uploads/limits`, Public: what a client may offer its user."""
    return json_response(_LIMITS, headers={"Cache-Control": "public, max-age=300"})


@only("POST", consumes="multipart/form-data")
def upload(request: HttpRequest, workspace_id: str) -> HttpResponseBase:
    """`POST /workspaces/:id/chat/uploads`, class Workspace: files for the agent, as `multipart/form-data`."""
    one, _ = _admitted(request, workspace_id)
    target = delivery.target_of(one)
    way = delivery.way_of(target, is_wired=delivery.is_wired())
    if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_REQUEST_BYTES:
        raise body_too_large()
    release_connection()  # the sender may be slow
    if way is Way.FORWARD:
        return _forwarded(request, target)
    is_outbound = request.GET.get("direction") == "to_user"
    try:
        with received_files(streamed_body(request), request.META.get("CONTENT_TYPE", "")) as items:
            staged = services.stage_files(one, items, is_outbound=is_outbound)
    except (BadRequest, TooLarge, TooManyRequests) as refusal:
        _log_rejected(one, refusal)
        raise
    return json_response({"files": staged})


def _forwarded(request: HttpRequest, target: Target) -> HttpResponseBase:
    declared = request.META.get("CONTENT_LENGTH") or ""
    answered = services.forward_upload(
        target,
        streamed_body(request),
        content_type=request.META.get("CONTENT_TYPE", ""),
        length=int(declared) if declared not in {"", "0"} else None,
    )
    return StreamingHttpResponse(
        answered.chunks(), status=answered.status, content_type=answered.content_type
    )


@only("GET")
def download(request: HttpRequest, workspace_id: str) -> HttpResponseBase:
    """`GET /workspaces/:id/chat/download`, class Workspace: the agent's file `?path=`."""
    one, _ = _admitted(request, workspace_id)
    path = services.checked_path(request.GET.get("path", ""))
    try:
        target = delivery.target_of(one)
    except DatabaseError:
        raise datastore_unavailable() from None
    delivery.require_url(target, "download")
    release_connection()
    answered = services.fetch_artefact(target, path)
    if answered.status != 200:
        body = answered.beginning(MAX_ERROR_BYTES)
        return HttpResponse(body, status=answered.status, content_type=answered.content_type)
    headers = download_headers(path.rpartition("/")[2], mime_types.sanitised(answered.content_type))
    if answered.length is not None:
        headers["Content-Length"] = str(answered.length)
    return StreamingHttpResponse(answered.chunks(), headers=headers)


def _log_rejected(workspace_id: UUID, refusal: DomainError) -> None:
    told = refusal.fields
    log.warning(
        "pending_upload.rejected",
        workspace_id=str(workspace_id),
        reason=type(refusal).__name__,
        name=names.sanitised(told["filename"]) if "filename" in told else None,
        size=told.get("size"),
        limit=told.get("max") or told.get("limit_bytes"),
    )


@only("GET")
def pending(request: HttpRequest, workspace_id: str) -> HttpResponse:
    """`GET /workspaces/:id/pending-uploads`, class Workspace: what waits for the agent, oldest first."""
    one, _ = _admitted(request, workspace_id)
    limit = limit_of(request.GET.get("limit"), default=LISTED, most=MAX_LISTED)
    return json_response({"files": [_listed(row) for row in services.list_unacked(one, limit)]})


@only("GET")
def content(request: HttpRequest, workspace_id: str, file_id: str) -> HttpResponseBase:
    """`GET /workspaces/:id/pending-uploads/:file_id/content`, class Workspace: the bytes."""
    one, principal = _admitted(request, workspace_id)
    include_acked = request.GET.get("include_acked", "").lower() in {"1", "true"}
    reader = services.Reader(principal.kind == Kind.WORKSPACE, include_acked)
    row, chunks = services.open_file(one, _file_uuid(file_id), reader)
    headers = {**download_headers(row.filename, row.mimetype), "Content-Length": str(row.size_bytes)}
    return StreamingHttpResponse(chunks, headers=headers)


@only("POST")
def ack(request: HttpRequest, workspace_id: str, file_id: str) -> HttpResponse:
    """`POST /workspaces/:id/pending-uploads/:file_id/ack`, class Workspace: the agent has the file."""
    one, _ = _admitted(request, workspace_id)
    is_raced = services.ack_file(one, _file_uuid(file_id))
    return json_response({"acked": True, "raced": True} if is_raced else {"acked": True})


def _admitted(request: HttpRequest, workspace_id: str) -> tuple[UUID, Principal]:
    """Before anything else of the request is read."""
    one = workspace_uuid(workspace_id)
    principal = principal_of(request)
    require_workspace(principal, one)
    return one, principal


def _file_uuid(text: str) -> UUID:
    return path_uuid(text, "invalid file ID")


def _listed(row: PendingUpload) -> dict[str, object]:
    return {
        "file_id": str(row.pk),
        "uri": row.uri,
        "name": row.filename,
        "mimeType": row.mimetype,
        "size": row.size_bytes,
        "created_at": row.created_at,
        "fetched_at": row.fetched_at,
        "expires_at": row.expires_at,
    }
