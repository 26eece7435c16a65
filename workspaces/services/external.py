"""External workspaces: their credential replaced, their connection looked up again.

Source: docs/reference/external-agents.md.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from access.models import TokenKind
from access.services import mint_token, revoke_tokens
from activity.events import EventType, record
from config.errors import BadRequest, failing_as
from workspaces.models import Workspace, WorkspaceQuerySet
from workspaces.services.crud import check_present

HINT = "use POST /workspaces/:id/restart for non-external runtimes"


def external_workspace(workspace_id: UUID) -> Workspace:
    """The row whose connection is shown again. Raises NotFound, Gone, BadRequest."""
    refusal = "connection payload is only valid for runtime=external workspaces"
    return _external(Workspace.objects.filter(pk=workspace_id), refusal)


def rotate_credentials(workspace_id: UUID) -> tuple[Workspace, str]:
    """Revoke every live token of the workspace and mint one, in one step that nobody sees half done.

    Returns the row and the new token. Raises NotFound, Gone, BadRequest.
    """
    with transaction.atomic():
        rows = Workspace.objects.filter(pk=workspace_id).select_for_update()
        row = _external(rows, "rotate is only valid for runtime=external workspaces")
        with failing_as("revoke failed"):
            revoke_tokens(workspace_id=workspace_id)
        with failing_as("mint failed"):
            token = mint_token(workspace_id=workspace_id, kind=TokenKind.INSTANCE, generation=row.generation)
            record(EventType.EXTERNAL_CREDENTIALS_ROTATED, workspace_id, {"workspace_id": str(workspace_id)})
    return row, token


def _external(rows: WorkspaceQuerySet, refusal: str) -> Workspace:
    with failing_as("lookup failed"):
        row = rows.first()
    check_present(row)
    assert row is not None
    if row.is_managed:
        raise BadRequest(refusal, runtime=row.runtime, hint=HINT)
    return row
