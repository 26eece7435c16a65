"""The verb over a workspace's config, the data of the canvas's Config tab.

Source: docs/reference/panels.md, Config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import connection

from config.errors import NotFound, failing_as
from config.http import to_json

# The row lock keeps a purge from taking the workspace between the look and the insert; the merge is the
# database's, so that of two at once neither is lost.
_MERGE = """
INSERT INTO workspace_config (workspace_id, data, updated_at)
SELECT id, %(patch)s::jsonb, now() FROM workspaces WHERE id = %(id)s AND status <> 'removed' FOR KEY SHARE
ON CONFLICT (workspace_id) DO UPDATE SET data = workspace_config.data || EXCLUDED.data, updated_at = now()
RETURNING workspace_id
"""


def merge_config(*, workspace_id: UUID, patch: Mapping[str, Any]) -> None:
    """Set the top-level keys of `patch` and keep the others. Raises NotFound."""
    with failing_as("failed to update config"), connection.cursor() as cursor:
        cursor.execute(_MERGE, {"id": workspace_id, "patch": to_json(patch).decode()})
        if cursor.fetchone() is None:
            raise NotFound("workspace not found")
