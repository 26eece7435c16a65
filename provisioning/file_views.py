"""Files of a workspace, for the canvas's tabs and for agents. Source: docs/reference/files.md, Routes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from access.authentication import principal_of
from config.errors import (
    BadRequest,
    GatewayTimeout,
    Internal,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from config.fields import Log
from config.http import has_readable_path, parsed, to_json
from provisioning.backends.base import NO_FILE, NO_STORAGE, BackendError, ErrorClass, FileError, FileProblem
from provisioning.services import files
from templates.serializers import Texts
from templates.services import TEXT_BYTES, InvalidPath, checked_files, plain_or_refused
from workspaces.views import WorkspaceViewSet

log = structlog.get_logger(__name__)

SOURCE = "X-Molecule-Files-Source"


class FileInput(serializers.Serializer[Any]):
    """`PUT /workspaces/:id/files/<path>`."""

    error_text = "invalid request body"
    content = Log()


class FilesInput(serializers.Serializer[Any]):
    """`PUT /workspaces/:id/files`."""

    error_text = "invalid request body"
    files = Texts()


class FileViewSet(WorkspaceViewSet):
    def list(self, request: Request, **kwargs: Any) -> Response:
        path, root = request.query_params.get("path", ""), _root(request)
        path = plain_or_refused(path) if path else ""
        depth = request.query_params.get("depth", "1")
        if depth not in {str(one) for one in range(1, files.DEEPEST + 1)}:
            raise BadRequest(f"depth must be 1-{files.DEEPEST}")
        with told("list"):
            entries, source = files.list_files(self.workspace, root, path, int(depth))
        shown = [{"path": one.path, "size": one.size, "dir": one.is_folder} for one in entries]
        if len(to_json(shown)) > files.READ_BYTES:
            raise TooLarge("the listing is too large; ask with less depth")
        return Response(shown, headers={SOURCE: source})

    def read(self, request: Request, **kwargs: Any) -> Response:
        path, root = _path(request, kwargs), _root(request)
        with told("read"):
            content, source = files.read_file(self.workspace, root, path)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise UnsupportedMedia("file is not UTF-8 text") from None
        shown = {"path": path, "content": text, "size": len(content)}
        return Response(shown, headers={SOURCE: source})

    def write(self, request: Request, **kwargs: Any) -> Response:
        path, root = _path(request, kwargs), _root(request)
        content = parsed(FileInput, request)["content"].encode()
        if len(content) > TEXT_BYTES:
            raise TooLarge("file too large")
        with told("write"):
            files.write_files(self.workspace, root, {path: content}, actor=principal_of(request).actor)
        return Response({"status": "saved", "path": path})

    def overlay(self, request: Request, **kwargs: Any) -> Response:
        """Files that are not named stay."""
        if _root(request) != files.CONFIGS:
            raise BadRequest("many files at once can be written to /configs only")
        given = parsed(FilesInput, request)["files"]
        checked = checked_files(given) if given else {}
        with told("write"):
            source = files.overlay_configs(self.workspace, checked, actor=principal_of(request).actor)
        shown = {"status": "replaced", "workspace": str(self.workspace.pk), "files": len(checked)}
        return Response({**shown, "source": source})

    def remove(self, request: Request, **kwargs: Any) -> Response:
        path, root = _path(request, kwargs), _root(request)
        is_recursive = request.query_params.get("recursive") in {"true", "1"}
        actor = principal_of(request).actor
        with told("delete"):
            files.delete_file(self.workspace, root, path, recursive=is_recursive, actor=actor)
        return Response({"status": "deleted", "path": path})


def _root(request: Request) -> str:
    root = request.query_params.get("root") or files.CONFIGS
    if root not in files.ROOTS:
        raise BadRequest(f"root must be one of: {', '.join(files.ROOTS)}")
    return root


def _path(request: Request, kwargs: dict[str, Any]) -> str:
    if not has_readable_path(request):
        raise InvalidPath
    return plain_or_refused(kwargs["path"])


@contextmanager
def told(verb: str) -> Iterator[None]:
    """What the backend says, as an answer without its internals."""
    try:
        yield
    except FileError as error:
        match error.problem:
            case FileProblem.MISSING:
                raise NotFound(NO_FILE) from None
            case FileProblem.TOO_LARGE:
                raise TooLarge("file too large") from None
            case FileProblem.UNAVAILABLE:
                raise Unavailable(NO_STORAGE) from None
        raise BadRequest(error.safe_message) from None
    except BackendError as error:
        log.warning("workspace_file.failed", verb=verb, error=error.detail or error.safe_message)
        if error.error_class == ErrorClass.TIMEOUT:
            raise GatewayTimeout("workspace file operation timed out") from None
        raise Internal(f"failed to {verb} file") from None
