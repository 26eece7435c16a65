"""Saying something to a workspace, as a person, a program or a peer."""

from __future__ import annotations

from typing import Any

from access.models import TokenKind
from access.services import mint_token
from tests.a2a.fake_agent import FakeAgent
from tests.clients import Api, admin
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace


def message(text: str = "hi", *, method: str = "message/send", params: Any = None, **fields: Any) -> Any:
    said = {"parts": [{"kind": "text", "text": text}], **fields}
    return {"method": method, "params": {"message": said, **(params or {})}}


def say(target: Workspace, text: str = "hi", *, api: Api | None = None, **given: Any) -> Any:
    return (api or admin()).post(f"/workspaces/{target.pk}/a2a", message(text, **given))


def at(agent: FakeAgent, **fields: Any) -> Workspace:
    """A workspace whose agent is this one."""
    return WorkspaceFactory(**{**agent.place, **fields})


def as_workspace(row: Workspace, **headers: str) -> Api:
    return Api(mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE), **headers)
