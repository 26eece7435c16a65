"""Config files of workspaces that no folder holds, and which plugins an org allows.

Source: docs/reference/files.md, Stored files; docs/reference/templates.md, Plugins.
"""

from __future__ import annotations

from uuid import uuid4

from django.db import models
from django.db.models.functions import Now


class WorkspaceFile(models.Model):
    """One file below a workspace's config folder, delivered with its first start.

    `content` is null for a file that was deleted where storage is lost with each start: it must not come back
    with the template.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    path = models.TextField()
    content = models.BinaryField(null=True)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "workspace_files"
        constraints = [
            models.UniqueConstraint(fields=["workspace", "path"], name="workspace_files_path_uniq")
        ]

    def __str__(self) -> str:
        return self.path


class AllowedPlugin(models.Model):
    """A plugin that the workspaces of an org may be given; an org without any row allows all.

    `org` is the root of the tree.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    org = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    plugin_name = models.TextField()
    enabled_by = models.TextField()
    enabled_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "org_plugin_allowlist"
        constraints = [
            models.UniqueConstraint(fields=["org", "plugin_name"], name="org_plugin_allowlist_name_uniq")
        ]

    def __str__(self) -> str:
        return self.plugin_name
