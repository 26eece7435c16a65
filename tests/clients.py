"""Small HTTP helpers: JSON in, JSON out, as an operator or as a workspace."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.test import Client

from access.models import TokenKind
from access.services import mint_token
from tests.conftest import ADMIN_TOKEN


class Api:
    """Calls the product through its URL table with one credential."""

    def __init__(self, token: str | None = None, **headers: str) -> None:
        bearer = {"HTTP_AUTHORIZATION": f"Bearer {token}"} if token else {}
        self._client = Client(**bearer, **headers)

    def get(self, path: str, **params: Any) -> Any:
        return self._client.get(path, params)

    def post(self, path: str, body: Any = None) -> Any:
        return self._client.post(path, {} if body is None else body, content_type="application/json")

    def put(self, path: str, body: Any) -> Any:
        return self._client.put(path, body, content_type="application/json")

    def patch(self, path: str, body: Any) -> Any:
        return self._client.patch(path, body, content_type="application/json")

    def delete(self, path: str) -> Any:
        return self._client.delete(path)


def admin() -> Api:
    return Api(ADMIN_TOKEN)


def anonymous() -> Api:
    return Api()


def agent_of(
    workspace_id: UUID, *, generation: int | None = None, kind: TokenKind = TokenKind.INSTANCE
) -> Api:
    """The agent of a workspace, with a fresh token."""
    return Api(mint_token(workspace_id=workspace_id, kind=kind, generation=generation))
