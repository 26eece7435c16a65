"""Routes of this room, each with its methods and its auth class."""

from __future__ import annotations

from django.urls import path

from access.permissions import AdminAccess, WorkspaceAccess
from memory.backup_views import BackupViewSet as Backup
from memory.record_views import RecordViewSet as Records
from memory.scoped_views import MemoryViewSet as Memories
from memory.views import KeyValueViewSet as View

_OPERATORS = {"permission_classes": [AdminAccess]}
_ACCESS = {"permission_classes": [WorkspaceAccess]}

urlpatterns = [
    path("workspaces/<workspace_id>/memory", View.as_view({"get": "list", "post": "create"}, **_ACCESS)),
    path(
        "workspaces/<workspace_id>/memory/<path:key>",
        View.as_view({"get": "retrieve", "delete": "destroy"}, **_ACCESS),
    ),
    path(
        "workspaces/<workspace_id>/memories",
        Memories.as_view({"get": "list", "post": "create"}, **_ACCESS),
    ),
    path(
        "workspaces/<workspace_id>/memories/<memory_id>",
        Memories.as_view({"patch": "partial_update", "delete": "destroy"}, **_ACCESS),
    ),
    path("workspaces/<workspace_id>/v2/namespaces", Records.as_view({"get": "namespaces"}, **_ACCESS)),
    path("workspaces/<workspace_id>/v2/memories", Records.as_view({"get": "list"}, **_ACCESS)),
    path(
        "workspaces/<workspace_id>/v2/memories/<path:memory_id>",
        Records.as_view({"delete": "destroy"}, **_ACCESS),
    ),
    path("admin/memories/export", Backup.as_view({"get": "export"}, **_OPERATORS)),
    path("admin/memories/import", Backup.as_view({"post": "restore"}, **_OPERATORS)),
]
